// PSNR over BitOps or file size: every run a point that can be chosen.
const AXES = {
  bitops: { unit: 1e9, label: `GBitOps at ${data.at}`, short: "GBitOps" },
  bytes: { unit: 1e3, label: "file size, kB", short: "kB" },
};
const front = { axis: "bitops", set: 0, selected: 0, box: document.getElementById("front-chart") };

const measured = (run) => run.sets[front.set];

// The runs that no other one beats in both, by rising cost.
function unbeaten(runs, axis) {
  const order = [...runs].sort((a, b) => a.run[axis] - b.run[axis] || b.score.psnr - a.score.psnr);
  let best = -Infinity;
  return order.filter((one) => one.score.psnr > best && ((best = one.score.psnr), true));
}

function drawFront(width) {
  const axis = AXES[front.axis], set = data.sets[front.set];
  const runs = data.runs.map((run, i) => ({ run, i, score: measured(run) })).filter((one) => one.score);
  const published = set.published && front.axis === "bitops" ? Object.entries(data.published) : [];
  const xs = [...runs.map((one) => one.run[front.axis] / axis.unit), ...published.flatMap(([, p]) => p.map((q) => q[0]))];
  const ys = [...runs.map((one) => one.score.psnr), ...published.flatMap(([, p]) => p.map((q) => q[1]))];
  if (!runs.length) { front.box.replaceChildren(); return; }
  const bicubic = runs[0].score.bicubic;
  const spread = Math.max(...ys) - Math.min(...ys);
  const far = Math.min(...ys) - bicubic > Math.max(0.4, 0.5 * spread);
  const height = Math.round(Math.max(data.runs.length > 1 ? 300 : 250, Math.min(data.runs.length > 1 ? 430 : 300, width * 0.62)));
  const margin = { left: 50, right: 14, top: 16, bottom: 46 };
  const strip = far ? 44 : 0;
  const bottom = height - margin.bottom - strip;
  const room = Math.max(1.35, (Math.max(...xs) / Math.min(...xs)) ** 0.12);
  const low = Math.min(...xs) / room, high = Math.max(...xs) * room;
  const shown = far ? ys : [...ys, bicubic];
  const rise = Math.max(Math.max(...shown) - Math.min(...shown), 0.12);
  const x = logarithmic(low, high, margin.left, width - margin.right);
  const least = Math.min(...shown) - 0.14 * rise, most = Math.max(...shown) + 0.2 * rise;
  const y = linear(least, most, bottom, margin.top);

  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `PSNR over ${axis.label} on ${set.label}` });
  for (const value of ticks(least, most, 5)) {
    root.append(svg("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }));
    root.append(svg("text", { x: margin.left - 8, y: y(value) + 4, "text-anchor": "end" }, short4(value)));
  }
  for (const value of powers(low, high, Math.floor(width / 70))) {
    root.append(svg("line", { class: "grid", x1: x(value), x2: x(value), y1: margin.top, y2: height - margin.bottom }));
    root.append(svg("text", { x: x(value), y: height - margin.bottom + 18, "text-anchor": "middle" }, short(value)));
  }
  root.append(svg("text", { x: (margin.left + width - margin.right) / 2, y: height - 6, "text-anchor": "middle" }, axis.label));
  root.append(svg("text", { x: 0, y: 10 }, "PSNR-Y, dB"));

  const level = far ? height - margin.bottom - 16 : y(bicubic);
  root.append(svg("line", { x1: margin.left, x2: width - margin.right, y1: level, y2: level, stroke: "var(--soft)", "stroke-dasharray": "5 4", "stroke-width": 1.5, class: "bicubic" }));
  root.append(svg("text", { x: margin.left + 6, y: level - 6 }, `bicubic ${decibel(bicubic)}`));
  if (far) for (const at of [bottom + 2, bottom + 9]) // the axis is broken
    root.append(svg("line", { x1: margin.left - 6, x2: margin.left + 6, y1: at + 3, y2: at - 3, stroke: "var(--soft)", "stroke-width": 1.3 }));

  const sign = (k, at) => svg("path", { d: signs[k], transform: `translate(${at})`, fill: k % 2 ? "var(--paper)" : "var(--soft)", stroke: "var(--soft)" });
  const signs = ["M-4 -4H4V4H-4Z", "M0 -5L5 0L0 5L-5 0Z", "M0 -5L5 4H-5Z", "M0 5L5 -4H-5Z"];
  published.forEach(([name, points], k) => {
    const group = svg("g", { class: "published", opacity: 0.85 });
    group.append(svg("path", { d: path(points.map((p) => p[0]), points.map((p) => p[1]), x, y), fill: "none", stroke: "var(--soft)", "stroke-width": 1, "stroke-dasharray": k % 2 ? "3 3" : "none" }));
    for (const [cost, psnr] of points) {
      const mark = sign(k, `${x(cost)} ${y(psnr)}`);
      tooltip(mark, () => `published: ${name}\n${decibel(psnr)} at ${short(cost)} GBitOps`);
      group.append(mark);
    }
    root.append(group);
  });

  const best = unbeaten(runs, front.axis);
  root.append(svg("path", { class: "joined", d: path(best.map((one) => one.run[front.axis] / axis.unit), best.map((one) => one.score.psnr), x, y), fill: "none", stroke: "var(--c0)", "stroke-width": 2, opacity: 0.55 }));
  const taken = runs.map((one) => { const cx = x(one.run[front.axis] / axis.unit), cy = y(one.score.psnr); return [cx - 9, cy - 9, cx + 9, cy + 9]; });
  for (let k = 1; k < best.length; k++) { // names keep away from the line too
    const [a, b] = [best[k - 1], best[k]].map((one) => [x(one.run[front.axis] / axis.unit), y(one.score.psnr)]);
    const parts = Math.ceil(Math.hypot(b[0] - a[0], b[1] - a[1]) / 8);
    for (let n = 1; n < parts; n++) {
      const [px, py] = [0, 1].map((i) => a[i] + ((b[i] - a[i]) * n) / parts);
      taken.push([px - 2, py - 2, px + 2, py + 2]);
    }
  }
  for (const [, points] of published) for (const p of points) taken.push([x(p[0]) - 6, y(p[1]) - 6, x(p[0]) + 6, y(p[1]) + 6]);
  const names = svg("g", { "aria-hidden": "true" });
  const rank = (one) => (one.i === front.selected ? 2 : 0) + (best.includes(one) ? 1 : 0);
  for (const one of [...runs].sort((a, b) => rank(b) - rank(a))) label(names, one, x(one.run[front.axis] / axis.unit), y(one.score.psnr), taken, width);
  root.append(names);
  for (const one of [...runs].sort((a, b) => a.run[front.axis] - b.run[front.axis])) root.append(point(one, x, y, axis));
  const kept = document.activeElement?.dataset?.point;
  const key = published.map(([name], k) => html("li", {}, svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, sign(k, "13 6")), `published: ${name}`));
  front.box.replaceChildren(root, ...(key.length ? [html("ul", { class: "legend" }, ...key)] : []));
  if (kept !== undefined) front.box.querySelector(`[data-point="${kept}"]`)?.focus();
  const note = document.getElementById("published-note");
  if (note) note.hidden = !published.length;
}

const short4 = (value) => String(Number(value.toPrecision(5)));

function point(one, x, y, axis) {
  const cost = one.run[front.axis] / axis.unit;
  const told = `${one.run.name}: ${decibel(one.score.psnr)}, ${short(one.run.bitops / 1e9)} GBitOps, ${short(one.run.bytes / 1e3)} kB`;
  const node = svg("g", { class: "point", tabindex: 0, role: "button", "data-point": one.i, "aria-pressed": one.i === front.selected, "aria-label": told, transform: `translate(${x(cost).toFixed(1)} ${y(one.score.psnr).toFixed(1)})` },
    svg("circle", { r: 18, fill: "transparent" }), svg("circle", { class: "ring", r: 11 }), svg("circle", { class: "dot", r: 6.5 }));
  node.addEventListener("click", () => select(one.i));
  node.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(one.i); }
  });
  tooltip(node, () => `${one.run.name}\n${decibel(one.score.psnr)} (bicubic ${decibel(one.score.bicubic)}, float ${decibel(one.score.float)})\n${short(one.run.bitops / 1e9)} GBitOps, ${short(one.run.bytes / 1e3)} kB`);
  return node;
}

// A name beside its point where nothing is yet; left out where there is no room.
function label(group, one, cx, cy, taken, width) {
  const name = one.run.name.length > 26 ? `${one.run.name.slice(0, 25)}…` : one.run.name;
  const long = name.length * (one.i === front.selected ? 7.4 : 6.6);
  const places = [[16, 4, "start"], [-16, 4, "end"], [0, -17, "middle"], [0, 26, "middle"], [12, 20, "start"], [-12, -12, "end"]];
  for (const [dx, dy, anchor] of places) {
    const left = cx + dx - (anchor === "end" ? long : anchor === "middle" ? long / 2 : 0);
    const box = [left, cy + dy - 11, left + long, cy + dy + 4];
    if (box[0] < 50 || box[2] > width - 2 || box[1] < 12) continue;
    if (taken.some((t) => box[0] < t[2] && t[0] < box[2] && box[1] < t[3] && t[1] < box[3])) continue;
    taken.push(box);
    group.append(svg("text", { class: one.i === front.selected ? "strong" : "", x: cx + dx, y: cy + dy, "text-anchor": anchor }, name));
    return;
  }
}

// What is chosen, beside the chart.
function drawChosen() {
  const box = document.getElementById("chosen"), run = data.runs[front.selected], score = measured(run);
  if (!box) return;
  const rows = score
    ? [["file", decibel(score.psnr)], ["float network", decibel(score.float)], ["bicubic", decibel(score.bicubic)]]
    : [["not measured on", data.sets[front.set].label]];
  rows.push(["BitOps", `${short(run.bitops / 1e9)} G`], ["file size", `${(run.bytes / 1e3).toFixed(1)} kB`]);
  const list = html("dl", {}, ...rows.map(([key, value]) => html("div", {}, html("dt", {}, key), html("dd", {}, value))));
  box.replaceChildren(html("b", {}, run.name), list, html("a", { href: `#run-${front.selected}` }, "Details ↓"));
}
