// Two versions of a photograph over each other, with a divider between them.
function compare(box, run, number) {
  const state = { view: 0, left: 0, right: 0, zoom: 1, at: 50 };
  if (box.clientWidth >= 2 * run.views[0].width) state.zoom = 2;
  const names = run.views[0].versions.map((version) => version.name);
  state.right = Math.max(0, names.indexOf("quantized"));

  const photos = html("select", { "aria-label": "Photograph", class: "photo" }, ...run.views.map((view, i) => html("option", { value: i }, view.name)));
  const sides = ["left", "right"].map((side) => html("select", { "aria-label": `Version on the ${side}`, class: `side-${side}` }));
  const zoom = html("fieldset", { class: "switch" }, html("legend", { class: "hidden" }, "Zoom"), ...[1, 2].map((n) => {
    const input = html("input", { type: "radio", name: `zoom-${number}`, value: n });
    input.checked = n === state.zoom;
    input.addEventListener("change", () => { state.zoom = n; show(); });
    return html("label", {}, input, html("span", {}, `x${n}`));
  }));
  const images = { left: html("img", { class: "left", draggable: "false" }), right: html("img", { class: "right", draggable: "false" }) };
  const divider = html("div", { class: "divider", "aria-hidden": "true" });
  const layers = html("div", { class: "layers" }, images.right, images.left, divider);
  const range = html("input", { type: "range", min: 0, max: 100, step: 0.5, value: 50, "aria-label": "Divider between the two versions" });
  const values = html("p", { class: "note values" });
  const frame = html("div", { class: "frame" },
    html("div", { class: "sides" }, ...sides.map((select, i) => html("label", {}, html("span", {}, ["left", "right"][i]), select))),
    html("div", { class: "view" }, layers), range, values);
  const choice = run.views.length > 1 ? html("label", { class: "field" }, html("span", {}, "Photograph"), photos) : html("span", { class: "note" }, run.views[0].name);
  box.replaceChildren(html("div", { class: "bar" }, choice, zoom), frame);

  function move(at) {
    state.at = Math.max(0, Math.min(100, at));
    layers.style.setProperty("--at", `${state.at}%`);
    range.value = state.at;
    const view = run.views[state.view];
    range.setAttribute("aria-valuetext", `${Math.round(state.at)} % ${view.versions[state.left].name}, the rest ${view.versions[state.right].name}`);
  }

  function show() {
    const view = run.views[state.view];
    sides.forEach((select, i) => {
      const chosen = i ? state.right : state.left;
      select.replaceChildren(...view.versions.map((version, k) => html("option", { value: k }, version.psnr === null ? version.name : `${version.name} ${decibel(version.psnr)}`)));
      select.value = chosen;
    });
    for (const side of ["left", "right"]) {
      const version = view.versions[state[side]];
      images[side].src = data.images[version.image];
      images[side].alt = `${view.name}, ${version.name}`;
    }
    layers.style.width = state.zoom === 1 ? "100%" : `${view.width * state.zoom}px`;
    layers.style.maxWidth = `${view.width * state.zoom}px`;
    layers.style.aspectRatio = `${view.width} / ${view.height}`;
    frame.style.width = `${view.width * state.zoom}px`;
    values.textContent = `PSNR-Y of this part: ${view.versions.filter((v) => v.psnr !== null).map((v) => `${v.name} ${decibel(v.psnr)}`).join(", ")}.`;
    move(state.at);
  }

  photos.addEventListener("change", () => { state.view = Number(photos.value); show(); });
  sides.forEach((select, i) => select.addEventListener("change", () => { state[i ? "right" : "left"] = Number(select.value); show(); }));
  range.addEventListener("input", () => move(Number(range.value)));

  // By mouse anywhere on the picture; by touch at the divider, so that a finger elsewhere scrolls.
  const follow = (event) => {
    const at = layers.getBoundingClientRect();
    move((100 * (event.clientX - at.left)) / at.width);
  };
  layers.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || (event.pointerType === "touch" && event.target !== divider)) return;
    layers.setPointerCapture(event.pointerId);
    follow(event);
    event.preventDefault();
  });
  layers.addEventListener("pointermove", (event) => { if (layers.hasPointerCapture(event.pointerId)) follow(event); });
  show();
}
