"use strict";
// Classes against a baseline, the confusion matrix, and the pictures with the lowest scores.
(function classes() {
  if (!DATA.present.length) return;
  const codecs = [...new Set(DATA.points.map((p) => p.codec))], table = el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `${DATA.classTitle} by class` });
  let baseline = DATA.baseline, codec = codecs.indexOf(DATA.points[baseline].codec);

  function draw() {
    const base = DATA.points[baseline], shown = DATA.points.filter((p) => p === base || codec < 0 || p.codec === codecs[codec]);
    const gaps = shown.flatMap((p) => DATA.present.map((k) => Math.abs((p.class_scores[k] ?? 0) - (base.class_scores[k] ?? 0))));
    const most = Math.max(0.02, ...gaps);
    const head = el("tr", {}, el("td", {}), el("th", { scope: "col" }, "mean"), ...DATA.present.map((k) => el("th", { scope: "col" }, DATA.classes[k])));
    const rows = shown.map((p) => el("tr", { class: p === base ? "baseline" : null }, el("th", { scope: "row" }, codec < 0 ? pointName(p) : p.name),
      cell(p.score, base.score, p === base, most), ...DATA.present.map((k) => cell(p.class_scores[k], base.class_scores[k], p === base, most))));
    table.replaceChildren(el("table", { class: "cells" }, el("thead", {}, head), el("tbody", {}, ...rows)));
  }

  function cell(value, against, own, most) {
    if (value === null) return el("td", {}, "–");
    if (own || against === null) return el("td", {}, number(value, 3));
    const gap = value - against, hue = gap >= 0 ? "--good" : "--bad";
    return el("td", { style: { background: `rgba(var(${hue}), ${(0.55 * Math.abs(gap)) / most})` } }, number(value, 3), el("small", {}, Math.abs(gap) < 0.0005 ? "=" : signed(gap, 3)));
  }

  show("classes", el("div", { class: "controls" },
    choice("difference to", DATA.points.map(pointName), baseline, (i) => { baseline = i; draw(); }),
    choice("codec", ["all", ...codecs], codec + 1, (i) => { codec = i - 1; draw(); })),
  el("p", { class: "note" }, `${DATA.classTitle} of each class; below it the difference, blue where it is better, orange where it is worse.`), table);
  draw();
})();

(function confusion() {
  const known = DATA.points.filter((p) => p.confusion);
  if (!known.length) return;
  const box = el("div", { class: "scroll" }), readout = el("p", { class: "readout", "aria-live": "polite" });
  function draw(point) {
    const seen = DATA.classes.map((_, k) => k).filter((k) => point.confusion[k].some(Boolean) || point.confusion.some((row) => row[k]));
    const nodes = [];
    const rows = seen.map((k) => {
      const total = point.confusion[k].reduce((a, b) => a + b, 0);
      return el("tr", {}, el("th", { scope: "row" }, DATA.classes[k]), ...seen.map((j) => {
        const share = total ? point.confusion[k][j] / total : 0, hue = j === k ? "--good" : "--bad";
        const words = total ? `Of ${DATA.classes[k]}, ${percent(share)} is called ${DATA.classes[j]} (${point.confusion[k][j].toLocaleString("en")} of ${total.toLocaleString("en")} pixels).` : `No pixel is ${DATA.classes[k]}.`;
        const say = () => { readout.textContent = words; };
        const node = el("td", { style: { background: `rgba(var(${hue}), ${0.75 * Math.sqrt(share)})` }, "aria-label": words, onpointerenter: say, onfocus: say }, share >= 0.005 ? String(Math.round(100 * share)) : "");
        nodes.push(node);
        return node;
      }));
    });
    roving(nodes, seen.length);
    const head = el("tr", {}, el("td", {}), ...seen.map((k) => el("th", { scope: "col" }, DATA.classes[k])));
    box.replaceChildren(el("table", { class: "cells" }, el("thead", {}, head), el("tbody", {}, ...rows)));
    readout.textContent = "Rows: what is there. Columns: what the network says. In percent of the row's pixels.";
  }
  const best = known.reduce((a, b) => (b.score > a.score ? b : a));
  show("confusion", el("div", { class: "controls" }, choice("network", known.map(pointName), known.indexOf(best), (i) => draw(known[i]))), box, readout);
  draw(best);
})();

(function worst() {
  if (!DATA.worst.some((rows) => rows.length)) return;
  const box = el("div", { class: "scroll" });
  function draw(at) {
    const rows = DATA.worst[at].map((row) => el("tr", {}, el("td", {}, row.id), el("td", { class: "number" }, number(row.score, 4)), el("td", { class: "number" }, number(row.bpp, 4)),
      el("td", {}, DATA.pictures.some((p) => p.id === row.id) ? el("button", { type: "button", onclick: () => openPicture(row.id) }, "look") : null)));
    const head = [["picture", null], [`its own ${DATA.metric}`, "number"], ["its own bpp", "number"], ["", null]].map(([text, kind]) => el("th", { scope: "col", class: kind }, text));
    box.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)));
  }
  const best = DATA.points.reduce((a, p, i) => (p.score > DATA.points[a].score ? i : a), 0);
  show("worst", el("div", { class: "controls" }, choice("network", DATA.points.map(pointName), best, draw)), box);
  draw(best);
})();
