// Which run and which chart is shown, the table of all runs, and what begins when the page is open.
const articles = [...document.querySelectorAll("article.run")];
const points = [...document.querySelectorAll("#front svg a")];
const begun = new Set();
const front = { axis: "bitops", set: 0, selected: 0 };

function begin(index) { // the photographs of a run appear when it is first shown
  if (begun.has(index)) return;
  begun.add(index);
  const box = articles[index].querySelector(".compare");
  if (box) compare(box, data.runs[index], index);
}

function select(index, linked = true) {
  front.selected = index;
  articles.forEach((article, i) => { article.hidden = i !== index; });
  begin(index);
  for (const box of document.querySelectorAll("select.choose")) box.value = index;
  for (const row of document.querySelectorAll("#all-runs tbody tr")) row.setAttribute("aria-current", String(Number(row.dataset.run) === index));
  for (const point of points) point.setAttribute("aria-current", String(point.getAttribute("href") === `#run-${index}`));
  redraw();
  if (linked && articles.length > 1) history.replaceState(null, "", `#run-${index}`);
}

function redraw() {
  for (const plot of document.querySelectorAll("#front .plot")) plot.hidden = plot.dataset.axis !== front.axis || Number(plot.dataset.set) !== front.set;
  const note = document.getElementById("published-note");
  if (note) note.hidden = front.axis !== "bitops" || !data.sets[front.set].published;
  describe();
}

// What is chosen, beside the chart.
function describe() {
  const box = document.getElementById("chosen"), run = data.runs[front.selected], score = run.sets[front.set];
  if (!box) return;
  const rows = score
    ? [["file", decibel(score.psnr)], ["float network", decibel(score.float)], ["bicubic", decibel(score.bicubic)]]
    : [["not measured on", data.sets[front.set].label]];
  rows.push(["BitOps", `${short(run.bitops / 1e9)} G`], ["file size", `${(run.bytes / 1e3).toFixed(1)} kB`]);
  const list = html("dl", {}, ...rows.map(([key, value]) => html("div", {}, html("dt", {}, key), html("dd", {}, value))));
  box.replaceChildren(html("b", {}, run.name), list, html("a", { href: `#run-${front.selected}` }, "Details ↓"));
}

const fixed = (value, digits) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

function scored(score) {
  if (!score) return html("td", {});
  const gain = score.psnr - score.bicubic;
  return html("td", {}, `${fixed(score.psnr, 2)} `, html("span", { class: "soft" }, `${gain < 0 ? "−" : "+"}${fixed(Math.abs(gain), 2)}`));
}

function table() {
  const box = document.getElementById("all-runs");
  if (!box) return;
  const rows = data.runs.map((run, i) => {
    const name = html("button", { type: "button" }, run.name);
    const scores = data.sets.map((_, k) => run.sets[k] ?? null);
    const costs = [run.bitops / 1e9, run.bytes / 1e3, run.parameters, run.seconds / 60];
    const values = [run.name, run.scale, run.bits, ...scores.map((score) => score && score.psnr), ...costs];
    const cells = [...scores.map(scored), ...costs.map((value, k) => html("td", {}, fixed(value, [3, 1, 0, 1][k])))];
    const row = html("tr", { "data-run": i }, html("th", { scope: "row" }, name), html("td", {}, `x${run.scale}`), html("td", { class: "text" }, run.bits), ...cells);
    row.addEventListener("click", () => select(i));
    return { row, values };
  });
  const heads = [...box.querySelectorAll("thead th")];
  const body = box.querySelector("tbody");
  body.replaceChildren(...rows.map((one) => one.row));
  heads.forEach((head, k) => {
    const button = html("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
      const order = (a, b) => (a === null) - (b === null) || down * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      rows.sort((a, b) => order(a.values[k], b.values[k]));
      body.replaceChildren(...rows.map((one) => one.row));
    });
  });
}

for (const input of document.querySelectorAll('input[name="axis"]')) input.addEventListener("change", () => { front.axis = input.value; redraw(); });
for (const point of points) point.addEventListener("click", (event) => { event.preventDefault(); select(Number(point.getAttribute("href").slice("#run-".length))); });
document.getElementById("set")?.addEventListener("change", (event) => { front.set = Number(event.target.value); redraw(); });
for (const box of document.querySelectorAll("select.choose")) box.addEventListener("change", () => {
  const index = Number(box.value);
  select(index);
  articles[index].querySelector("select.choose")?.focus({ preventScroll: true });
});
const asked = () => {
  const index = Number(/^#run-(\d+)$/.exec(location.hash)?.[1] ?? NaN);
  return index in articles ? index : null;
};
addEventListener("hashchange", () => { const index = asked(); if (index !== null && index !== front.selected) select(index); });
addEventListener("beforeprint", () => { for (const box of articles[front.selected].querySelectorAll("details")) box.open = true; });
const quality = (run) => run.sets[front.set]?.psnr ?? -Infinity;
table();
select(asked() ?? data.runs.reduce((best, run, i) => (quality(run) > quality(data.runs[best]) ? i : best), 0), false);
