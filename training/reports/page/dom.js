"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);

// Text goes in as text, never as markup: names come from stores.
function el(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function svg(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "style") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function show(id, ...nodes) {
  const section = document.getElementById(id);
  section.append(...nodes);
  section.hidden = false;
}

function choice(label, names, chosen, onChange) {
  const select = el("select", { onchange: () => onChange(Number(select.value)) },
    ...names.map((name, i) => el("option", { value: i, selected: i === chosen }, name)));
  return el("label", {}, label, select);
}

const pointName = (point) => `${point.name} · ${point.codec}`;
const number = (value, digits) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const signed = (value, digits) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(digits);
const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

// Arrow keys go through a list of places, of which one at a time takes part in tabbing.
function roving(nodes, columns) {
  nodes.forEach((node, i) => {
    node.tabIndex = i ? -1 : 0;
    node.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns || 1, ArrowUp: -(columns || 1) }[event.key];
      const to = event.key === "Home" ? 0 : event.key === "End" ? nodes.length - 1 : step && i + step;
      if (to === undefined || !nodes[to]) return;
      event.preventDefault();
      nodes.forEach((other) => { other.tabIndex = -1; });
      nodes[to].tabIndex = 0;
      nodes[to].focus();
    });
  });
}
