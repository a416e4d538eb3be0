// Predicted and measured damage of every slot: two dots in a row, on a logarithmic axis.
function damage(box, run) {
  const rows = run.damages.map(([slot, weights, inputs, predicted, found, fitted]) => ({ slot, weights, inputs, predicted, found, fitted }));
  drawn(box, (whole) => {
    const width = Math.min(whole, 860);
    const values = rows.flatMap((row) => [row.predicted, row.found, row.fitted]).filter((value) => value > 0);
    const least = values.length ? Math.min(...values) / 2 : 1e-9, most = values.length ? Math.max(...values) * 2 : 1;
    const long = Math.max(...rows.map((row) => row.slot.length));
    const narrow = width < 520;
    const margin = { left: Math.min(Math.max(64, long * 6.9 + 10), width * 0.36), right: narrow ? 44 : 56, top: 24, bottom: 40 };
    const step = 21, height = margin.top + step * rows.length + margin.bottom;
    const x = logarithmic(least, most, margin.left + 6, width - margin.right - 6);
    const end = height - margin.bottom;
    const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Predicted and measured error of ${rows.length} layers; the table of layers has the figures.` });
    for (const value of powers(least, most, Math.floor((width - margin.left) / 80))) {
      root.append(svg("line", { class: "grid", x1: x(value), x2: x(value), y1: margin.top - 6, y2: end }));
      root.append(svg("text", { x: x(value), y: 10, "text-anchor": "middle" }, `${(-10 * Math.log10(value)).toFixed(0)} dB`));
      root.append(svg("text", { x: x(value), y: end + 16, "text-anchor": "middle" }, tiny(value)));
    }
    root.append(svg("text", { x: (margin.left + width - margin.right) / 2, y: height - 4, "text-anchor": "middle" }, narrow ? "MSE of the output" : "mean squared error of the output, pixels in 0..1; above: as PSNR to the float network"));
    rows.forEach((row, i) => root.append(pair(row, x, margin.top + step * (i + 0.5), margin, width, least)));
    const key = (draw, text) => html("li", {}, svg("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, draw), text);
    box.replaceChildren(html("ul", { class: "legend" },
      key(svg("circle", { cx: 13, cy: 6, r: 4.5, fill: "var(--paper)", stroke: "var(--c0)", "stroke-width": 2 }), "predicted"),
      key(svg("circle", { cx: 13, cy: 6, r: 5, fill: "var(--c1)" }), "measured"),
      key(svg("line", { x1: 13, x2: 13, y1: 0, y2: 12, stroke: "var(--c1)", "stroke-width": 2.5 }), "measured on fitted grids")), root);
  });
}

function pair(row, x, y, margin, width, least) {
  const place = (value) => x(Math.max(value, least));
  const bits = row.weights === row.inputs ? `${row.weights} bits` : `w${row.weights} a${row.inputs}`;
  const room = Math.floor((margin.left - 10) / 6.6);
  const name = row.slot.length > room ? `…${row.slot.slice(1 - room)}` : row.slot;
  const group = svg("g", {}, svg("rect", { x: 0, y: y - 10, width, height: 20, fill: "transparent" }), svg("text", { x: margin.left - 10, y: y + 4, "text-anchor": "end" }, name), svg("text", { x: width, y: y + 4, "text-anchor": "end" }, bits));
  if (row.predicted !== null) group.append(
    svg("line", { x1: place(row.predicted), x2: place(row.found), y1: y, y2: y, stroke: "var(--soft)", "stroke-width": 1.5, opacity: 0.6 }),
    svg("circle", { cx: place(row.predicted), cy: y, r: 4.5, fill: "var(--paper)", stroke: "var(--c0)", "stroke-width": 2 }));
  group.append(svg("line", { x1: place(row.fitted), x2: place(row.fitted), y1: y - 6, y2: y + 6, stroke: "var(--c1)", "stroke-width": 2.5 }));
  group.append(svg("circle", { cx: place(row.found), cy: y, r: 5, fill: "var(--c1)" }));
  tooltip(group, () => `${row.slot}, weights ${row.weights} bits, inputs ${row.inputs}\n${row.predicted === null ? "" : `predicted ${tiny(row.predicted)}, `}measured ${tiny(row.found)}, on fitted grids ${tiny(row.fitted)}`);
  return group;
}
