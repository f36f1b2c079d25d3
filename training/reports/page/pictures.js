"use strict";
// One picture, one method, one N: what it was, what its channels decode to, what is there, what is said.
let openPicture = () => {};

(function pictures() {
  if (!DATA.pictures.length) return;
  let at = 0, family = 0, step = 0;
  const views = el("div", { class: "views" }), caption = el("p", { class: "readout", "aria-live": "polite" });
  const slider = el("input", { type: "range", min: 0, step: 1, oninput: () => { step = Number(slider.value); draw(); } });
  const label = el("output", {}), slide = el("label", { style: { flex: "1 1 300px" } }, "N", slider, label);
  const thumbs = DATA.pictures.map((picture, i) => el("button", { type: "button", title: picture.id, onclick: () => { at = i; draw(); } },
    el("img", { src: picture.images[picture.original ?? picture.networks[0].decoded], alt: picture.id }), picture.why === "worst" ? "hardest" : "sample"));

  function draw() {
    const picture = DATA.pictures[at], chosen = DATA.families[family], steps = chosen.steps;
    step = clamp(step, 0, steps.length - 1);
    slider.max = steps.length - 1;
    slider.value = step;
    slide.hidden = steps.length < 2;
    const found = picture.networks.find((n) => n.point === steps[step].point), point = DATA.points[found.point];
    label.textContent = String(found.channels);
    slider.setAttribute("aria-valuetext", `${found.channels} channels, ${number(found.bpp, 4)} bits per pixel`);
    const decoded = found.partly ? `decoded from ${found.channels} channels` : `decoded from all channels (the network got ${found.channels})`;
    views.replaceChildren(
      ...(picture.original === null ? [] : [view(picture, picture.original, "original")]),
      view(picture, found.decoded, `${decoded}: ${found.bytes.toLocaleString("en")} bytes, ${number(found.bpp, 4)} bpp`),
      ...picture.truth.filter((t) => t.image !== picture.networks[0].decoded && t.title !== "decoded picture").map((t) => view(picture, t.image, t.title)),
      view(picture, found.drawn, `${chosen.name}${steps.length > 1 ? `, N = ${steps[step].n}` : ""}: ${DATA.metric} ${number(found.score, 4)}`));
    caption.textContent = `${picture.id}: this picture's own ${number(found.bpp, 4)} bpp and ${DATA.metric} ${number(found.score, 4)}; all pictures of the split together ${number(point.bpp, 4)} bpp and ${number(point.score, 4)}.`;
    thumbs.forEach((thumb, i) => thumb.setAttribute("aria-pressed", String(i === at)));
  }

  function view(picture, image, text) {
    const source = picture.images[image];
    return el("figure", {}, el("img", { src: source, alt: text, class: source.startsWith("data:image/png") ? "flat" : null }), el("figcaption", {}, text));
  }

  openPicture = (id) => {
    at = DATA.pictures.findIndex((picture) => picture.id === id);
    draw();
    document.getElementById("pictures").scrollIntoView();
  };
  const names = DATA.families.map((f) => `${f.name} · ${f.codec}`);
  const swatches = DATA.classes.map((name, k) => el("span", {}, el("i", { style: { background: DATA.colours[k] } }), name));
  roving(thumbs);
  show("pictures", el("div", { class: "thumbs", role: "toolbar", "aria-label": "pictures" }, ...thumbs),
    el("div", { class: "controls" }, choice("network", names, 0, (i) => { family = i; step = DATA.families[i].steps.length - 1; draw(); }), slide),
    views, caption, el("div", { class: "swatches" }, ...swatches));
  draw();
})();
