"use strict";
// One column a channel, by rank: how often it is kept, or what the ranking is by, and its bits.
(function channels() {
  if (!DATA.rankings.length) return;
  const box = el("div", {}), readout = el("p", { class: "readout", "aria-live": "polite" });

  function draw(ranking) {
    const many = ranking.order.length, width = 960, left = 74, step = (width - left) / many, tall = 44;
    const inOrder = (values) => values && ranking.order.map((channel) => values[channel]);
    const kept = inOrder(ranking.frequency) || inOrder(ranking.score), bits = inOrder(ranking.bits);
    const rows = [{ name: ranking.frequency ? "kept in" : ranking.method, values: kept }, { name: "bits", values: bits }].filter((row) => row.values);
    const sums = bits && bits.reduce((all, value) => [...all, (all[all.length - 1] || 0) + value], []);
    const drawing = svg("svg", { class: "strips", viewBox: `0 0 ${width} ${rows.length * (tall + 4) + 34}`, tabindex: 0, role: "img", "aria-label": "Channels by rank. Arrow keys go from channel to channel." });
    rows.forEach(({ name, values }, row) => {
      const y = 16 + row * (tall + 4), most = Math.max(...values.map((v) => v ?? 0), 1e-9);
      drawing.append(svg("text", { x: 0, y: y + tall / 2 + 4 }, name));
      values.forEach((value, rank) => {
        const share = Math.max(0, value ?? 0) / most;
        drawing.append(svg("rect", { x: left + rank * step, y, width: step + 0.3, height: tall, style: { fill: `rgba(var(--heat), ${0.06 + 0.94 * Math.sqrt(share)})` } }));
      });
    });
    const bottom = 16 + rows.length * (tall + 4);
    let free = -1;
    for (const cut of ranking.cuts) {
      const x = left + cut * step;
      drawing.append(svg("line", { class: "cut", x1: x, x2: x, y1: 12, y2: bottom }));
      if (x - free > 26) {
        drawing.append(svg("text", { x, y: bottom + 13, "text-anchor": cut === many ? "end" : "middle" }, String(cut)));
        free = x;
      }
    }
    drawing.append(svg("text", { x: 0, y: bottom + 13 }, "first N"));
    const frame = svg("rect", { class: "at", y: 14, height: bottom - 16, width: Math.max(step, 2) });
    let at = -1;
    function tell(rank) {
      at = clamp(rank, 0, many - 1);
      frame.setAttribute("x", left + at * step);
      if (!frame.parentNode) drawing.append(frame);
      const parts = [`Rank ${at + 1}: channel ${ranking.order[at]}`];
      parts.push(ranking.frequency ? `kept in ${percent(kept[at])} of the images` : `${ranking.method} ${Number((kept[at] ?? 0).toPrecision(4))}`);
      if (bits) parts.push(`${bits[at].toFixed(1)} bits a picture`, `the first ${at + 1} hold ${percent(sums[at] / (sums[many - 1] || 1))} of the bits of y`);
      readout.textContent = parts.join(", ") + ".";
    }
    drawing.addEventListener("pointermove", (event) => {
      const area = drawing.getBoundingClientRect();
      tell(Math.floor((((event.clientX - area.left) / area.width) * width - left) / step));
    });
    drawing.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
      if (!by) return;
      event.preventDefault();
      tell(at < 0 ? 0 : at + by);
    });
    const scale = el("span", { class: "key" }, el("span", {}, "none ", el("span", { class: "scale" }), " most of its row (root scale)"), el("span", {}, "lines: the cuts N"), bits ? null : el("span", {}, "the bits of single channels are in the store, not in records"));
    box.replaceChildren(drawing, scale);
    readout.textContent = "Point at a channel, or step with the arrow keys.";
  }
  const names = DATA.rankings.map((r) => `${r.name} · ${r.codec} (${r.method})`);
  show("channels", el("div", { class: "controls" }, choice("ranking", names, 0, (i) => draw(DATA.rankings[i]))), box, readout);
  draw(DATA.rankings[0]);
})();
