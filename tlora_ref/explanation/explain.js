(() => {
  const { element, chart, bars, tint } = draw;
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);

  function similarity(phi) {
    const head = element("tr", {}, element("th", { scope: "col" }, "phi"), ...data.choices.map((name) => element("th", { scope: "col" }, name)));
    const rows = phi.map((values, i) => element("tr", {}, element("th", { scope: "row" }, data.choices[i]),
      ...values.map((value) => {
        const cell = element("td", {}, value.toFixed(3));
        cell.style.background = tint(value);
        return cell;
      })));
    at("similarity-table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  }

  // ---- one module ----

  let current = 0;

  function choose(index) {
    current = index;
    const module = data.modules[index];
    at("module").value = String(index);
    at("shape").textContent = module.shape;
    at("previous").disabled = index === 0;
    at("next").disabled = index === data.modules.length - 1;
    for (const [panel, text] of Object.entries(module.said)) at(`said-${panel}`).textContent = text;
    map.mark(index);
    chart(at("spectrum-plot"), `Both axes logarithmic. ${module.said.spectrum}`,
      [{ name: "eigenvalues of C", points: module.C }, { name: "singular values of W C", points: module.WC }],
      { logarithmic: true, xName: `index, logarithmic; dotted: rank ${module.cut}`, cut: module.cut });
    at("allocation-table").replaceChildren(element("tbody", {}, ...module.allocation.map(([name, value]) =>
      element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, value)))));
    bars(at("choices-table"), ["A", "J / bound"], (module.share || []).map((v, i) => [data.choices[i], v, v.toFixed(3)]));
    similarity(module.phi || []);
    bars(at("update-table"), ["row of A", "share"], (module.rows || []).map((v, i) => [String(i + 1), v, `${(100 * v).toFixed(1)}%`]));
  }

  at("said-training").textContent = data.training;
  chart(at("training-plot"), data.training, [{ name: "loss", points: data.history }], { xName: "step" });
  at("module").addEventListener("change", (event) => choose(Number(event.target.value)));
  at("previous").addEventListener("click", () => choose(current - 1));
  at("next").addEventListener("click", () => choose(current + 1));
  const map = draw.heatMap(at("map"), data, choose);
  at("quantity").addEventListener("change", () => map.show(at("quantity").value));
  map.show(at("quantity").value);
  choose(0);
})();
