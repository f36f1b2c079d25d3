"use strict";
// Rate against score. Everything is drawn anew when a series is hidden, so that the axes fit the rest.
const FORMS = [
  null,
  [[-1, -1], [1, -1], [1, 1], [-1, 1]],
  [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
  [[-1.15, -0.9], [1.15, -0.9], [0, 1.2]],
  [[-1.15, 0.9], [1.15, 0.9], [0, -1.2]],
  [[0.9, -1.15], [0.9, 1.15], [-1.2, 0]],
  [[-0.9, -1.15], [-0.9, 1.15], [1.2, 0]],
  [[-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4], [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4]],
  [[0, -1.3], [0.35, -0.4], [1.25, -0.4], [0.55, 0.2], [0.8, 1.1], [0, 0.55], [-0.8, 1.1], [-0.55, 0.2], [-1.25, -0.4], [-0.35, -0.4]],
  [[0, -1.2], [1.15, -0.35], [0.7, 1], [-0.7, 1], [-1.15, -0.35]],
];

function marker(form, x, y, beaten) {
  const points = FORMS[form % FORMS.length], kind = beaten ? "mark beaten" : "mark";
  if (!points) return svg("circle", { cx: x, cy: y, r: 4.6, class: kind, stroke: "currentColor", "stroke-width": 1.4 });
  const path = points.map(([dx, dy]) => `${x + 4.4 * dx},${y + 4.4 * dy}`).join(" ");
  return svg("polygon", { points: path, class: kind, stroke: "currentColor", "stroke-width": 1.4 });
}

function ticks(low, high, log, most) {
  if (!log) {
    const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) found.push(Number((i * step).toPrecision(12)));
    return found;
  }
  for (const multiples of [[1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8], [1, 1.5, 2, 3, 5, 7], [1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k++)
      for (const m of multiples) {
        const value = Number((m * 10 ** k).toPrecision(6));
        if (value >= low && value <= high) found.push(value);
      }
    if (found.length > most) continue;
    return found.length < 4 ? ticks(low, high, false, most) : found;
  }
  return [];
}

// A name takes the nearest place that is free.
function place(box, x, y, taken, frame) {
  let best = null;
  for (const distance of [8, 14, 22, 34, 48, 66, 90])
    for (const [across, up] of [[1, 0], [-1, 0], [0, -1], [0, 1], [1, -1], [1, 1], [-1, -1], [-1, 1]]) {
      const left = x + (across ? across * distance : -box.width / 2) - (across < 0 ? box.width : 0);
      const top = y + up * distance - box.height / 2;
      const at = { left, top, right: left + box.width, bottom: top + box.height };
      const out = at.left < frame.left || at.right > frame.right || at.top < frame.top || at.bottom > frame.bottom;
      const met = taken.filter((o) => at.left < o.right && o.left < at.right && at.top < o.bottom && o.top < at.bottom);
      const cost = distance + 2000 * out + met.reduce((sum, o) => sum + (o.cost || 220), 0);
      if (!best || cost < best.cost) best = { cost, at, distance };
    }
  return best;
}

function chartView(chart) {
  const host = el("div", { class: "chart" });
  const tip = el("div", { class: "tip", hidden: true, role: "status", "aria-live": "polite" });
  const hidden = new Set();
  let marks = [], groups = [], at = -1, drawing = null;

  function draw() {
    const width = Math.max(280, host.clientWidth || 900), height = clamp(0.56 * width, 320, 540), narrow = width < 560;
    const visible = chart.series.filter((series) => !hidden.has(series.name));
    const frame = { left: 58, right: width - 12, top: 10, bottom: height - 42 };
    drawing = svg("svg", {
      viewBox: `0 0 ${width} ${height}`, height, tabindex: 0, role: "img",
      "aria-label": `${chart.title}. Arrow keys go from point to point.`, onkeydown: key, onpointermove: near, onpointerleave: leave,
    });
    host.replaceChildren(drawing, tip);
    tip.hidden = true;
    at = -1;
    const all = visible.flatMap((series) => series.marks);
    if (!all.length) {
      drawing.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing is chosen below"));
      marks = [];
      return;
    }
    const xs = all.map((m) => m.x), ys = all.flatMap((m) => [m.y, m.low ?? m.y, m.high ?? m.y, ...m.dots.map((d) => d[1])]);
    const f = chart.log ? Math.log : (v) => v;
    const padX = Math.max(0.06 * (f(Math.max(...xs)) - f(Math.min(...xs))), chart.log ? 0.12 : 1e-6);
    const padY = Math.max(0.06 * (Math.max(...ys) - Math.min(...ys)), 0.004);
    const x0 = f(Math.min(...xs)) - padX, x1 = f(Math.max(...xs)) + padX * (narrow ? 1 : 1.6);
    const y0 = Math.max(0, Math.min(...ys) - padY), y1 = Math.max(...ys) + padY;
    const X = (v) => frame.left + ((f(v) - x0) / (x1 - x0)) * (frame.right - frame.left);
    const Y = (v) => frame.bottom - ((v - y0) / (y1 - y0)) * (frame.bottom - frame.top);
    const back = chart.log ? Math.exp : (v) => v;
    for (const v of ticks(y0, y1, false, 7)) {
      drawing.append(svg("line", { class: "grid", x1: frame.left, x2: frame.right, y1: Y(v), y2: Y(v) }));
      drawing.append(svg("text", { class: "axis", x: frame.left - 6, y: Y(v) + 4, "text-anchor": "end" }, String(Number(v.toFixed(4)))));
    }
    for (const v of ticks(back(x0), back(x1), chart.log, Math.floor(width / 58))) {
      drawing.append(svg("line", { class: "grid", x1: X(v), x2: X(v), y1: frame.top, y2: frame.bottom }));
      drawing.append(svg("text", { class: "axis", x: X(v), y: frame.bottom + 15, "text-anchor": "middle" }, String(v)));
    }
    const xTitle = narrow ? chart.x_title.replace(/,[^)]*/, "") : chart.x_title;
    drawing.append(svg("text", { class: "axis", x: (frame.left + frame.right) / 2, y: height - 6, "text-anchor": "middle" }, xTitle));
    drawing.append(svg("text", { class: "axis", x: 10, y: (frame.top + frame.bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 10 ${(frame.top + frame.bottom) / 2})` }, chart.y_title));
    if (chart.level !== null && chart.level >= y0 && chart.level <= y1) {
      drawing.append(svg("line", { class: "level", x1: frame.left, x2: frame.right, y1: Y(chart.level), y2: Y(chart.level) }));
      drawing.append(svg("text", { class: "axis", x: frame.left + 6, y: Y(chart.level) - 4 }, chart.level_name));
    }
    marks = [];
    groups = visible.map((series) => drawSeries(series, X, Y));
    drawing.append(...groups.map((g) => g.node));
    names(visible, frame, narrow);
    marks.sort((a, b) => a.px - b.px || a.py - b.py);
  }

  function drawSeries(series, X, Y) {
    const node = svg("g", { class: "series", style: { "--c": series.colour } });
    const path = series.line.map(([x, y], i) => `${i ? "L" : "M"}${X(x)},${Y(y)}`).join("");
    node.append(svg("path", { d: path, "stroke-width": 1.8, "stroke-dasharray": series.dashed ? "5 4" : null }));
    for (const m of series.marks) {
      if (m.low !== null) node.append(svg("line", { x1: X(m.x), x2: X(m.x), y1: Y(m.low), y2: Y(m.high), opacity: 0.5 }));
      for (const [x, y] of m.dots) node.append(svg("circle", { cx: X(x), cy: Y(y), r: 1.8, class: "mark", opacity: 0.6 }));
      node.append(marker(series.form, X(m.x), Y(m.y), m.beaten));
      marks.push({ series, mark: m, px: X(m.x), py: Y(m.y) });
    }
    const at = ([x, y]) => [X(x), Y(y)];
    return {
      series, node, line: series.line.map(at), dots: series.marks.flatMap((m) => m.dots.map(at)),
      bars: series.marks.filter((m) => m.low !== null).map((m) => [X(m.x), Y(m.low), Y(m.high)]),
    };
  }

  function names(visible, frame, narrow) {
    const around = (x, y, r, cost) => ({ left: x - r, right: x + r, top: y - r, bottom: y + r, cost });
    const taken = marks.map((m) => around(m.px, m.py, 6, 220));
    for (const { dots, bars, line } of groups) {
      taken.push(...dots.map(([x, y]) => around(x, y, 3, 30)), ...bars.map(([x, y0, y1]) => ({ left: x - 1, right: x + 1, top: y1, bottom: y0, cost: 30 })));
      for (let i = 1; i < line.length; i++)
        for (let s = 0; s <= 40; s++) taken.push(around(line[i - 1][0] + (s / 40) * (line[i][0] - line[i - 1][0]), line[i - 1][1] + (s / 40) * (line[i][1] - line[i - 1][1]), 1, 8));
    }
    for (const { series, node } of groups) {
      const own = marks.filter((m) => m.series === series), shown = own.filter((m) => !m.mark.beaten);
      const last = shown.reduce((a, b) => (b.px > a.px ? b : a));
      for (const m of own) {
        const named = m === last && !(narrow && visible.length > 5);
        const text = [named ? series.name : "", m.mark.text].filter(Boolean).join(" ");
        if (!text) continue;
        const best = place({ width: 7 * text.length + 4, height: 13 }, m.px, m.py, taken, frame);
        taken.push(best.at);
        if (best.distance > 22) {
          const x = clamp(m.px, best.at.left, best.at.right), y = clamp(m.py, best.at.top, best.at.bottom);
          node.append(svg("line", { x1: m.px, y1: m.py, x2: x, y2: y, "stroke-width": 0.7 }));
        }
        node.append(svg("text", { class: "name", x: best.at.left + 1, y: best.at.bottom - 3 }, text));
      }
    }
  }

  function point(found) {
    const { series, mark, px, py } = found;
    const interval = mark.low === null ? "" : ` [${number(mark.low, 4)}, ${number(mark.high, 4)}]`;
    tip.replaceChildren(el("b", {}, series.name + (mark.text ? `, N = ${mark.text}` : "")),
      `${mark.name}: ${number(mark.x, chart.log ? 4 : 0)} ${chart.unit}, ${chart.y_title} ${number(mark.y, 4)}${interval}`,
      mark.dots.length ? el("div", {}, `mean of ${mark.dots.map((d) => d[2]).join(", ")}: ${mark.dots.map((d) => number(d[1], 4)).join(", ")}`) : null,
      mark.beaten ? el("div", {}, "this method has as much for less rate") : null);
    tip.hidden = false;
    const scale = drawing.clientWidth / drawing.viewBox.baseVal.width || 1;
    tip.style.left = `${clamp(px * scale + 14, 0, Math.max(0, host.clientWidth - tip.offsetWidth))}px`;
    tip.style.top = `${py * scale + 14 + tip.offsetHeight > host.clientHeight ? py * scale - tip.offsetHeight - 12 : py * scale + 14}px`;
    highlight(series.name);
  }

  function highlight(name) {
    for (const { series, node } of groups) node.classList.toggle("dim", name !== null && series.name !== name);
  }

  function near(event) {
    const box = drawing.getBoundingClientRect(), scale = drawing.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
    const distances = marks.map((m) => Math.hypot(m.px - x, m.py - y)), least = Math.min(...distances);
    if (least > 30) return leave();
    at = distances.indexOf(least);
    point(marks[at]);
  }

  function leave() {
    tip.hidden = true;
    highlight(null);
  }

  function key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") return leave();
    if (!step || !marks.length) return;
    event.preventDefault();
    at = at < 0 ? (step > 0 ? 0 : marks.length - 1) : (at + step + marks.length) % marks.length;
    point(marks[at]);
  }

  const buttons = chart.series.map((series) => el("button", {
    type: "button", "aria-pressed": "true", onclick: () => toggle([series.name], !hidden.has(series.name)),
    onpointerenter: () => highlight(series.name), onpointerleave: () => highlight(null),
    onfocus: () => highlight(series.name), onblur: () => highlight(null),
  }, svg("svg", { viewBox: "0 0 18 12", "aria-hidden": "true", class: "series", style: { "--c": series.colour } },
    svg("path", { d: "M0,6L18,6", "stroke-width": 1.6, "stroke-dasharray": series.dashed ? "4 3" : null }), marker(series.form, 9, 6, false)), series.name));

  function toggle(chosen, hide) {
    for (const name of chosen) hidden[hide ? "add" : "delete"](name);
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(!hidden.has(chart.series[i].name))));
    draw();
  }

  const everything = chart.series.map((series) => series.name);
  const search = el("input", {
    type: "search", placeholder: "filter, e.g. pixel", "aria-label": "show only methods whose name holds this",
    oninput: () => {
      toggle(everything, true);
      const wanted = search.value.toLowerCase().split(/[ ,]+/).filter(Boolean);
      toggle(everything.filter((name) => !wanted.length || wanted.some((part) => name.toLowerCase().includes(part))), false);
    },
  });
  roving(buttons);
  const view = el("div", {}, el("h3", {}, chart.title), host, explain(chart),
    el("div", { class: "controls" }, search,
      el("button", { type: "button", onclick: () => toggle(everything, false) }, "all"),
      el("button", { type: "button", onclick: () => toggle(everything, true) }, "none")),
    el("div", { class: "legend", role: "toolbar", "aria-label": "methods shown" }, ...buttons));
  let width = 0;
  new ResizeObserver(() => { if (host.clientWidth !== width) { width = host.clientWidth; draw(); } }).observe(host);
  return view;
}

function explain(chart) {
  const marks = chart.series.flatMap((series) => series.marks);
  const words = [...chart.words];
  if (marks.some((m) => m.low !== null)) words.push("bar: 95 % over images");
  if (marks.some((m) => m.beaten)) words.push("hollow: the method itself has as much for less rate");
  if (marks.some((m) => m.dots.length)) words.push("small dot: one seed");
  if (chart.level !== null) words.push(`${chart.level_name} (dotted, where in sight)`);
  return el("div", { class: "key" }, ...words.map((word) => el("span", {}, word)));
}

if (DATA.charts.length) show("charts", ...DATA.charts.map(chartView));
