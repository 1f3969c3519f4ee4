(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const choose = (index) => {
    map.mark(index);
    at("chosen").textContent = data.modules[index].said;
  };
  const map = draw.heatMap(at("map"), data, choose);
  at("quantity").addEventListener("change", () => map.show(at("quantity").value));
  map.show(at("quantity").value);
  if (data.modules.length) choose(0);
  if (data.losses.length) draw.chart(at("losses"), data.said, data.losses, { xName: "step", cut: data.kept });
})();
