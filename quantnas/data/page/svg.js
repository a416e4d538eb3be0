"use strict";
// Drawing: elements, axes, numbers, and the one tooltip of the page. All text goes in as text.
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function html(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// [low, high] -> [from, to]
function linear(low, high, from, to) {
  const span = high - low || 1;
  return (value) => from + ((value - low) / span) * (to - from);
}

function logarithmic(low, high, from, to) {
  const inner = linear(Math.log(low), Math.log(high), from, to);
  return (value) => inner(Math.log(value));
}

function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count) || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found.map((value) => Number(value.toPrecision(12)));
}

// As many of 1, 1 and 3, 1, 2 and 5, or 1 to 9 of every power of ten as there is room for.
function powers(low, high, most) {
  const begin = Math.floor(Math.log10(low)), end = Math.ceil(Math.log10(high));
  let best = [];
  for (const steps of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]]) {
    const found = [];
    for (let p = begin; p <= end; p++) for (const s of steps) found.push(Number((s * 10 ** p).toPrecision(6)));
    const inside = found.filter((value) => value >= low && value <= high);
    if (inside.length > most && best.length) break;
    best = inside;
  }
  return best;
}

const short = (value) => String(Number(value.toPrecision(3)));
const tiny = (value) => value.toExponential(1).replace(".0e", "e").replace("e+0", "");
const decibel = (value) => `${value.toFixed(2)} dB`;

function path(xs, ys, x, y) {
  let out = "", pen = false;
  xs.forEach((value, i) => {
    if (ys[i] === null || ys[i] === undefined) { pen = false; return; }
    out += `${pen ? "L" : "M"}${x(value).toFixed(1)} ${y(ys[i]).toFixed(1)}`;
    pen = true;
  });
  return out;
}

// A tooltip for a node of a chart: by mouse and by keyboard.
const tip = document.getElementById("tip");
function tooltip(node, text) {
  const show = () => {
    tip.textContent = text();
    tip.hidden = false;
    const at = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = at.left + at.width / 2 - own.width / 2;
    const above = at.top - own.height - 8;
    tip.style.left = `${Math.max(8, Math.min(innerWidth - own.width - 8, left))}px`;
    tip.style.top = `${above < 8 ? at.bottom + 8 : above}px`;
  };
  const hide = () => { tip.hidden = true; };
  node.addEventListener("pointerenter", show);
  node.addEventListener("pointerleave", hide);
  node.addEventListener("focus", () => { if (node.matches(":focus-visible")) show(); });
  node.addEventListener("blur", hide);
}
addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });

// Draw now and whenever the box becomes wider or narrower.
function drawn(box, draw) {
  let width = 0;
  new ResizeObserver(() => {
    const now = Math.floor(box.clientWidth);
    if (now > 0 && now !== width) {
      width = now;
      draw(width);
    }
  }).observe(box);
}
