"use strict";
// The data of the page, its elements and its numbers. All text goes in as text.
const data = JSON.parse(document.getElementById("data").textContent);

function html(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

const short = (value) => String(Number(value.toPrecision(3)));
const decibel = (value) => `${value.toFixed(2)} dB`;
