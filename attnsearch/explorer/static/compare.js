// The same image under several trials, on one colour scale, and the difference of two maps.

import { fileName, savePng, saveSvg } from "./export.js";
import { asShares, decodeMap, difference, onImage, rangeOf, scaleOf } from "./field.js";
import { State, ask, bindPage, byId, el, given, onKeys, percent, place, showError, withWords } from "./page.js";
import { boxOn, contourOn, fit, levelOf, loadImage, paint } from "./paint.js";
import { imageFileUrl } from "./tile.js";
import { VIEW, bindView, showLegend, viewOf, viewWords } from "./view.js";

const where = given("where");
const state = new State({ ...VIEW, t: [], image: "", split: "val", map: "", scale: "", difference: "0", first: "0", second: "1" });
let found = { trials: [] };
let tiles = [];
let asked = 0;

async function load() {
  asked += 1;
  const mine = asked;
  const words = { t: state.get("t"), image: state.get("image"), split: state.get("split"), map: state.get("map") };
  try {
    const answer = await ask(place("api", "compare", where.experiment), words);
    if (mine !== asked) return;
    found = answer;
    state.set({ image: found.image, split: found.split });
    await show();
  } catch (error) {
    showError(byId("tiles"), error);
  }
}

async function show() {
  tiles = await Promise.all(found.trials.map(makeTile));
  byId("tiles").replaceChildren(...tiles.map((tile) => tile.element));
  if (!tiles.length) byId("tiles").replaceChildren(el("p", { class: "quiet" }, "Add a trial to begin."));
  byId("title").textContent = found.image ? found.image.split("/").pop() : "One image, several trials";
  byId("title").title = found.image;
  for (const [id, target] of [["previous", found.previous], ["next", found.next]]) byId(id).disabled = !target;
  fillMaps();
  fillPair();
  draw();
  document.body.dataset.ready = "1";
}

async function makeTile(trial) {
  const name = `${trial.study} ${trial.number}`;
  const remove = el("button", { type: "button", class: "remove", "aria-label": `remove ${name}`, onclick: () => drop(trial) }, "×");
  if (trial.error) {
    return { trial, name, element: el("div", { class: "tile" }, el("span", { class: "names" }, el("strong", {}, name), remove, el("span", { class: "error" }, trial.error))) };
  }
  const canvas = el("canvas", { role: "img", "aria-label": `${name}: predicted ${trial.predicted}` });
  fit(canvas, trial.size, 340, 340, 1.5);
  const at = { ...where, study: trial.study, number: trial.number, split: found.split };
  const image = await loadImage(trial.source ? imageFileUrl(at, trial.row, 512) : null);
  const { map: raw, box } = onImage(decodeMap(trial.map), trial.size, trial.box);
  const words = el("span", { class: "names" },
    el("a", { class: "true", href: imageUrl(trial) }, name), remove,
    el("span", { class: trial.correct ? "verdict correct" : "verdict incorrect" }, `${trial.correct ? "✓" : "✗"} ${trial.predicted}`, el("span", { class: "confidence" }, percent(trial.confidence))));
  return { trial, name, canvas, raw, shown: { size: trial.size, box, image, map: raw }, element: el("div", { class: "tile" }, el("span", { class: "image" }, canvas), words) };
}

const imageUrl = (trial) =>
  withWords(place("image", where.experiment, trial.study, trial.number, trial.row), { split: found.split, ...state.words(["map"]), ...viewWords(state) });

const painted = () => tiles.filter((tile) => tile.canvas);

/** One scale for all; as shares where trials are of several studies, whose maps have other units. */
function scaleRule() {
  const isMixed = new Set(painted().map((tile) => tile.trial.study)).size > 1;
  return state.get("scale") || (isMixed ? "shares" : "one");
}

function draw() {
  const view = viewOf(state);
  const how = scaleRule();
  byId("scale").value = how;
  for (const tile of painted()) tile.shown.map = how === "shares" ? asShares(tile.raw) : tile.raw;
  const shared = painted().length ? scaleOf(rangeOf(painted().map((tile) => tile.shown.map))) : null;
  for (const tile of painted()) {
    tile.scale = how === "own" ? scaleOf(rangeOf([tile.raw])) : shared;
    paint(tile.canvas, tile.shown, view, { scale: tile.scale });
  }
  byId("legend").hidden = how === "own" || !shared;
  if (how !== "own" && shared) showLegend(byId("legend"), view, shared);
  drawDifference(view);
}

function drawDifference(view) {
  const box = byId("difference-box");
  const [first, second] = [painted()[state.number("first")], painted()[state.number("second")]];
  if (state.get("difference") !== "1" || !first || !second) {
    box.replaceChildren(...(state.get("difference") === "1" ? [el("p", { class: "quiet" }, "A difference needs two trials.")] : []));
    return;
  }
  const map = difference(first.shown.map, second.shown.map, first.shown.box, second.shown.box);
  const range = rangeOf([map]);
  const limit = Math.max(Math.abs(range.low), Math.abs(range.high));
  const scale = { low: -limit, high: limit, isSigned: true };
  const canvas = el("canvas", { role: "img", id: "difference-canvas", "aria-label": `${first.name} minus ${second.name}` });
  fit(canvas, first.shown.size, 340, 340, 1.5);
  const signed = { ...view, colours: view.colours === "auto" ? "RdBu" : view.colours };
  paint(canvas, { ...first.shown, map }, signed, { scale });
  const legend = byId("legend").cloneNode(true);
  legend.removeAttribute("id");
  showLegend(legend, signed, scale);
  const words = el("span", { class: "names" }, el("span", { class: "true" }, `${first.name} − ${second.name}`));
  box.replaceChildren(el("div", { class: "tile" }, el("span", { class: "image" }, canvas), words, legend));
}

function fillMaps() {
  const labels = Object.assign({}, ...painted().map((tile) => tile.trial.labels));
  byId("map").replaceChildren(...Object.entries(labels).map(([key, label]) => el("option", { value: key }, label)));
  byId("map").value = state.get("map") in labels ? state.get("map") : (Object.keys(labels)[0] ?? "");
}

function fillPair() {
  for (const id of ["first", "second"]) {
    byId(id).replaceChildren(...painted().map((tile, index) => el("option", { value: String(index) }, tile.name)));
    byId(id).value = String(Math.min(state.number(id), Math.max(0, painted().length - 1)));
  }
  byId("difference").checked = state.get("difference") === "1";
}

function fillAdd() {
  const used = new Set(state.get("t"));
  const options = where.choices.filter((choice) => !used.has(choice.t)).map((choice) => el("option", { value: choice.t }, choice.label));
  byId("add").replaceChildren(el("option", { value: "" }, options.length ? "choose…" : "no other trial has maps"), ...options);
}

function add(t) {
  if (!t) return;
  state.set({ t: [...state.get("t"), t] }, { isStep: true });
  fillAdd();
  load();
}

function drop(trial) {
  state.set({ t: state.get("t").filter((t) => t !== `${trial.study}:${trial.number}`) }, { isStep: true });
  fillAdd();
  load();
}

function go(image) {
  if (!image) return;
  state.set({ image }, { isStep: true });
  load();
}

function chooseMap(key) {
  state.set({ map: key });
  load();
}

function stepMap(by) {
  const keys = [...byId("map").options].map((option) => option.value);
  if (keys.length) chooseMap(keys[(keys.indexOf(byId("map").value) + by + keys.length) % keys.length]);
}

function panels() {
  const shown = painted().map(({ canvas, trial, name }) => ({ canvas, lines: [name, `${trial.correct ? "✓" : "✗"} ${trial.predicted} ${Number(trial.confidence).toFixed(2)}`] }));
  const last = byId("difference-canvas");
  return last ? [...shown, { canvas: last, lines: [last.getAttribute("aria-label")] }] : shown;
}

/** Contours as lines, the rest as pixels. */
function svgPanels() {
  const view = viewOf(state);
  const plain = panels();
  if (!(view.contour > 0)) return plain;
  painted().forEach(({ canvas, shown, scale }, index) => {
    const copy = el("canvas", { width: canvas.width, height: canvas.height });
    paint(copy, shown, { ...view, contour: 0 }, { scale });
    plain[index] = { ...plain[index], canvas: copy, contour: contourOn(shown.map, boxOn(copy, shown), levelOf(view, scale)) };
  });
  return plain;
}

const name = () => fileName(where.experiment, "compare", found.image, byId("map").value);
const png = () => painted().length && savePng(panels(), name());

bindPage();
bindView(state, draw);
fillAdd();
byId("add").addEventListener("change", (event) => add(event.target.value));
byId("map").addEventListener("change", (event) => chooseMap(event.target.value));
for (const id of ["scale", "first", "second"]) {
  byId(id).addEventListener("change", (event) => {
    state.set({ [id]: event.target.value });
    draw();
  });
}
function setDifference(isOn) {
  state.set({ difference: isOn ? "1" : "0" });
  byId("difference").checked = isOn;
  draw();
}
byId("difference").addEventListener("change", (event) => setDifference(event.target.checked));
byId("previous").addEventListener("click", () => go(found.previous));
byId("next").addEventListener("click", () => go(found.next));
byId("save-png").addEventListener("click", png);
byId("save-svg").addEventListener("click", () => painted().length && saveSvg(svgPanels(), name()));
onKeys({
  ArrowLeft: () => go(found.previous), ArrowRight: () => go(found.next), "[": () => stepMap(-1), "]": () => stepMap(1),
  d: () => setDifference(state.get("difference") !== "1"), e: png,
});
window.addEventListener("popstate", () => {
  state.read();
  fillAdd();
  load();
});
load();
