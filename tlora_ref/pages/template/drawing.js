"use strict";
// What the pages draw with: charts, bars, heat maps; each with the words that say the same.
const draw = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const DOTTED = 40; // points up to which a line has dots: with fewer, a line alone hides where it was measured

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function drawn(name, attributes = {}, text = null) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return made;
  }

  const tint = (part) => `color-mix(in srgb, var(--high) ${(100 * part).toFixed(1)}%, var(--low))`;
  const span = (values) => [Math.min(...values), Math.max(...values)];
  const written = (x) => (Math.abs(x) >= 0.01 && Math.abs(x) < 10000) || x === 0 ? String(Number(x.toPrecision(4))) : x.toExponential(1);

  // ---- charts: lines over an x axis, with the words that say the same ----

  function chart(place, label, lines, { logarithmic = false, xName, cut }) {
    const [width, height, left, right, top, bottom] = [560, 280, 92, 14, 34, 54];
    const x = (v) => (logarithmic ? Math.log10(v) : v), y = x;
    const points = lines.flatMap((line) => line.points.filter((p) => !logarithmic || p[1] > 0));
    let [x0, x1] = span(points.map((p) => x(p[0]))), [y0, y1] = span(points.map((p) => y(p[1])));
    if (x0 === x1) x1 = x0 + 1;
    if (y0 === y1) y1 = y0 + 1;
    const px = (v) => left + ((x(v) - x0) / (x1 - x0)) * (width - left - right);
    const py = (v) => height - bottom - ((y(v) - y0) / (y1 - y0)) * (height - top - bottom);
    const back = (v) => (logarithmic ? 10 ** v : v);
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    for (const part of [0, 0.5, 1]) {
      const value = back(y0 + part * (y1 - y0));
      svg.append(drawn("line", { class: "axis", x1: left, x2: width - right, y1: py(value), y2: py(value) }));
      svg.append(drawn("text", { x: left - 6, y: py(value) + 4, "text-anchor": "end" }, written(value)));
    }
    const ticks = [...new Set([0, 0.5, 1].map((part) => Math.round(back(x0 + part * (x1 - x0)))))];
    ticks.forEach((value, i) => {
      const anchor = i === ticks.length - 1 && i ? "end" : i ? "middle" : "start";
      svg.append(drawn("text", { x: px(value), y: height - bottom + 20, "text-anchor": anchor }, String(value)));
    });
    svg.append(drawn("text", { x: (left + width - right) / 2, y: height - 5, "text-anchor": "middle" }, xName));
    if (cut) {
      svg.append(drawn("line", { class: "cut", x1: px(cut), x2: px(cut), y1: top, y2: height - bottom }));
    }
    lines.forEach((line, i) => {
      const kind = i ? "second" : "first";
      const path = line.points.filter((p) => !logarithmic || p[1] > 0).map((p) => `${px(p[0]).toFixed(1)},${py(p[1]).toFixed(1)}`);
      svg.append(drawn("polyline", { class: kind, points: path.join(" ") }));
      if (path.length <= DOTTED) {
        for (const [cx, cy] of path.map((p) => p.split(","))) svg.append(drawn("circle", { class: kind, cx, cy, r: 3.5 }));
      }
      svg.append(drawn("text", { class: kind, x: left + 200 * i, y: 18 }, line.name));
    });
    place.replaceChildren(svg);
  }

  // ---- tables ----

  function bars(table, caption, rows) {
    const head = element("tr", {}, ...caption.map((name) => element("th", { scope: "col" }, name)), element("th", { scope: "col", class: "wide" }));
    const body = rows.map(([name, value, said]) => {
      const bar = element("span", { class: "bar" });
      bar.style.width = `${100 * Math.max(0, Math.min(1, value))}%`;
      return element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, said), element("td", { class: "wide", "aria-hidden": "true" }, bar));
    });
    table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
  }

  // ---- the heat map: a grid of buttons, one of which Tab reaches ----

  // `data` has layers, kinds and modules: {name, place: [row, column], map: {quantity: [value, as it is read]}}.
  // Gives two functions: one shows a quantity, one marks the chosen module; `choose` is told of a press.
  function heatMap(table, data, choose) {
    let current = 0;

    function button(index, quantity, least, most) {
      const module = data.modules[index], [value, said] = module.map[quantity];
      const made = element("button", { type: "button", "data-index": index, "aria-label": `${module.name}: ${said}` }, said);
      made.style.background = tint(value === null || most === least ? 0 : (value - least) / (most - least));
      made.addEventListener("click", () => choose(index));
      return made;
    }

    function mark(index) {
      current = index;
      for (const each of table.querySelectorAll("button")) {
        const chosen = Number(each.dataset.index) === index;
        each.setAttribute("aria-pressed", String(chosen));
        each.tabIndex = chosen ? 0 : -1;
      }
    }

    function show(quantity) {
      const [least, most] = span(data.modules.map((m) => m.map[quantity][0]).filter((v) => v !== null));
      const head = element("tr", {}, element("th", { scope: "col" }, "layer"), ...data.kinds.map((kind) => element("th", { scope: "col" }, kind)));
      const rows = data.layers.map((layer) => element("tr", {}, element("th", { scope: "row" }, layer), ...data.kinds.map(() => element("td"))));
      data.modules.forEach((m, index) => rows[m.place[0]].children[m.place[1] + 1].append(button(index, quantity, least, most)));
      table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
      mark(current);
    }

    table.addEventListener("keydown", moved);
    return { show, mark };
  }

  function moved(event) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const from = event.target.closest("button");
    if (!steps || !from) return;
    event.preventDefault();
    const row = from.closest("tr"), rows = [...row.parentElement.children];
    let i = rows.indexOf(row), j = [...row.children].indexOf(from.parentElement);
    for (;;) {
      i += steps[0], j += steps[1];
      const cell = rows[i] && rows[i].children[j];
      if (!cell) return;
      const button = cell.querySelector("button");
      if (button) return button.focus();
    }
  }

  return { element, chart, bars, tint, heatMap };
})();
