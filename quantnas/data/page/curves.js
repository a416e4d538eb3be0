// A search over its steps: what it came to, and the probabilities of every choice.
const COLOURS = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => `var(--c${i})`);
const DASHES = ["none", "5 3", "1.5 2.5", "8 3 2 3", "10 4"];

// lines: {label, xs, ys, colour, dash, dots}; fixed: [low, high] of the vertical axis.
function lines(box, title, found, { fixed, unit = "", begins, target, height = 190, legend = true, note } = {}) {
  const figure = html("figure", {}), caption = html("figcaption", {}, title), plot = html("div", {});
  if (note) caption.append(html("span", {}, note));
  figure.append(caption, plot);
  if (legend) figure.append(html("ul", { class: "legend" }, ...found.map((line) => html("li", {}, sample(line), line.label))));
  box.append(figure);
  drawn(plot, (width) => {
    const ys = found.flatMap((line) => line.ys).filter((value) => value !== null);
    if (target) ys.push(target);
    const [low, high] = fixed ?? padded(Math.min(...ys), Math.max(...ys));
    const last = Math.max(...found.flatMap((line) => line.xs)), first = Math.min(...found.flatMap((line) => line.xs));
    const margin = { left: 36, right: 6, top: 8, bottom: 22 };
    const x = linear(first, last, margin.left, width - margin.right), y = linear(low, high, height - margin.bottom, margin.top);
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title} over the steps of the search${note ? `: ${note}` : ""}` });
    for (const value of ticks(low, high, height > 150 ? 4 : 2)) root.append(
      svg("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }),
      svg("text", { x: margin.left - 7, y: y(value) + 4, "text-anchor": "end" }, String(Number(value.toPrecision(4)))));
    for (const value of ticks(first, last, Math.max(3, Math.floor(width / 90)))) if (Number.isInteger(value)) root.append(svg("text", { x: x(value), y: height - 5, "text-anchor": value > last * 0.95 ? "end" : "middle" }, String(value)));
    if (begins && begins > first && begins < last) root.append(svg("line", { x1: x(begins), x2: x(begins), y1: margin.top, y2: height - margin.bottom, stroke: "var(--soft)", "stroke-width": 1, "stroke-dasharray": "1.5 3" }));
    if (target) root.append(svg("line", { x1: margin.left, x2: width - margin.right, y1: y(target), y2: y(target), stroke: "var(--c2)", "stroke-width": 1.5, "stroke-dasharray": "5 4" }));
    for (const line of found) {
      root.append(svg("path", { d: path(line.xs, line.ys, x, y), fill: "none", stroke: line.colour, "stroke-width": line.wide ?? 1.8, "stroke-dasharray": line.dash, "stroke-linejoin": "round" }));
      if (line.dots) line.xs.forEach((value, i) => { if (line.ys[i] !== null) root.append(svg("circle", { cx: x(value), cy: y(line.ys[i]), r: 2.6, fill: line.colour })); });
    }
    plot.replaceChildren(root);
  });
}

const padded = (low, high) => [low - 0.06 * (high - low || 1), high + 0.06 * (high - low || 1)];

function sample(line) {
  return svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, svg("line", { x1: 1, x2: 25, y1: 6, y2: 6, stroke: line.colour, "stroke-width": 2.2, "stroke-dasharray": line.dash }));
}

function curves(box, search) {
  const grid = html("div", { class: "small" });
  const line = (label, ys, colour, dash = "none", xs = search.steps, dots = false) => ({ label, xs, ys, colour: COLOURS[colour], dash, dots });
  const giga = (values) => values.map((value) => (value === null ? null : value / 1e9));
  const options = { begins: search.begins };
  lines(grid, "How decided", [line("mean entropy, 1 = uniform", search.curves.entropy, 0), line("share of choices decided", search.curves.decided, 1, "5 3")], { ...options, fixed: [0, 1], note: "share" });
  const bitops = [line("expected", giga(search.curves.bitops), 0), line("of the most probable pairs", giga(search.curves.decided_bitops), 1, "5 3")];
  lines(grid, "Cost", bitops, { ...options, target: search.target && search.target / 1e9, note: search.target ? `GBitOps; target ${short(search.target / 1e9)}` : "GBitOps" });
  const psnr = [line("supernet, on one batch", search.curves.psnr, 0)];
  if (search.checks.length) psnr.push(line("decided network, on validation patches", search.checks.map((c) => c[1]), 1, "none", search.checks.map((c) => c[0]), true));
  lines(grid, "Quality", psnr, { ...options, note: "PSNR, dB" });
  box.replaceChildren(grid);
  if (search.begins) box.append(html("p", { class: "note" }, `Over the steps; the alphas learn from step ${search.begins} on${search.begins > search.steps[0] ? " (dotted line)" : ""}.`));
}

function alphas(box, search) {
  const ops = [...new Set(search.choices.flatMap((choice) => choice.ops))], widths = [...new Set(search.choices.flatMap((choice) => choice.widths))];
  const colour = (op) => COLOURS[ops.indexOf(op) % COLOURS.length], dash = (width) => DASHES[widths.indexOf(width) % DASHES.length];
  const key = [...ops.map((op) => ({ label: op, colour: colour(op), dash: "none" })), ...widths.map((width) => ({ label: width, colour: "var(--ink)", dash: dash(width) }))];
  const grid = html("div", { class: "small" });
  box.replaceChildren(html("ul", { class: "legend" }, ...key.map((line) => html("li", {}, sample(line), line.label))), grid);
  for (const choice of search.choices) {
    const pairs = choice.ops.flatMap((op) => choice.widths.map((width) => [op, width]));
    const last = choice.curves.map((curve) => curve.at(-1) ?? 0), best = last.indexOf(Math.max(...last));
    const found = pairs.map(([op, width], i) => ({ label: `${op}, ${width}`, xs: search.steps, ys: choice.curves[i], colour: colour(op), dash: dash(width), wide: i === best ? 2.4 : 1.3 }));
    lines(grid, choice.name, found, { fixed: [0, 1], height: 120, legend: false, begins: search.begins, note: `${pairs[best].join(", ")}: ${last[best].toFixed(2)}` });
  }
}
