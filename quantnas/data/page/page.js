// Which run is shown, the table of all, and what begins when the page is open.
const articles = [...document.querySelectorAll("article.run")];
const begun = new Set();

function begin(index) { // the charts of a run are drawn when it is first shown
  if (begun.has(index)) return;
  begun.add(index);
  const article = articles[index], run = data.runs[index];
  const part = (name, draw) => { const box = article.querySelector(`.${name}`); if (box) draw(box); };
  if (run.views.length) part("compare", (box) => compare(box, run, index));
  if (run.damages) part("damage", (box) => damage(box, run));
  if (run.search) {
    part("curves", (box) => curves(box, run.search));
    part("alphas", (box) => alphas(box, run.search));
  }
}

function select(index, linked = true) {
  front.selected = index;
  articles.forEach((article, i) => { article.hidden = i !== index; });
  begin(index);
  for (const box of document.querySelectorAll("select.choose")) box.value = index;
  for (const row of document.querySelectorAll("#all-runs tbody tr")) row.setAttribute("aria-current", String(Number(row.dataset.run) === index));
  redraw();
  if (linked && articles.length > 1) history.replaceState(null, "", `#run-${index}`);
}

function redraw() {
  if (front.box.clientWidth) drawFront(Math.floor(front.box.clientWidth));
  drawChosen();
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
drawn(front.box, drawFront);
table();
select(asked() ?? data.runs.reduce((best, run, i) => (quality(run) > quality(data.runs[best]) ? i : best), 0), false);
