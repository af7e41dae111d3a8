// The same image under several trials, on one colour scale, and the difference of two maps.

import { fileName, savePng, saveSvg } from "./export.js";
import { decodeMap, difference, gridText, onImage, overMean, rangeOf, scalesOf } from "./field.js";
import { State, axisOf, bindPage, byId, el, formatNumber, getJson, hintOf, onKeys, pageData, pathTo, showError, withQuery } from "./page.js";
import { boxOn, contourOn, fit, levelOf, loadImage, paint } from "./paint.js";
import { factRow } from "./facts.js";
import { captionOf, flatBadge, imageFileUrl, shortCaption, verdictOf } from "./tile.js";
import { VIEW, bindView, describeMap, showLegend, viewOf, viewQuery } from "./view.js";

const where = pageData("where");
const state = new State({ ...VIEW, t: [], image: "", split: "val", map: "", scale: "", difference: "0", first: "0", second: "1" });
let answer = { trials: [] };
let tiles = [];
let lastRequest = 0;

async function load() {
  lastRequest += 1;
  const request = lastRequest;
  const query = { t: state.get("t"), image: state.get("image"), split: state.get("split"), map: state.get("map") };
  try {
    const latest = await getJson(pathTo("api", "compare", where.experiment), query);
    if (request !== lastRequest) return;
    answer = latest;
    state.set({ image: answer.image, split: answer.split });
    await show();
  } catch (error) {
    showError(byId("tiles"), error);
  }
}

async function show() {
  tiles = await Promise.all(answer.trials.map(makeTile));
  byId("tiles").replaceChildren(...tiles.map((tile) => tile.element));
  byId("choice-box").hidden = tiles.length > 0;
  for (const id of ["controls", "difference-panel"]) byId(id).hidden = !tiles.length;
  byId("title").textContent = answer.image || "One image, several trials";
  for (const [id, target] of [["previous", answer.previous], ["next", answer.next]]) byId(id).disabled = !target;
  fillMaps();
  fillPair();
  draw();
  document.body.dataset.ready = "1";
}

async function makeTile(trial) {
  const name = `${trial.study} ${trial.number}`;
  const remove = el("button", { type: "button", class: "remove", "aria-label": `remove ${name}`, onclick: () => removeTrial(trial) }, "×");
  if (trial.error) {
    return { trial, name, element: el("div", { class: "tile" }, el("span", { class: "names" }, el("strong", {}, name), remove, el("span", { class: "error" }, trial.error))) };
  }
  const canvas = el("canvas", { role: "img", "aria-label": `${name}: ${captionOf(trial)}` });
  fit(canvas, trial.size, 340, 340, 1.5);
  const at = { ...where, study: trial.study, number: trial.number, split: answer.split };
  const image = await loadImage(trial.source ? imageFileUrl(at, trial.row, 512) : null);
  const whole = decodeMap(trial.map);
  const { map: raw, box } = onImage(whole, trial.size, trial.box);
  const caption = el("span", { class: "names" },
    el("a", { class: "true", href: imageUrl(trial) }, name), remove,
    verdictOf(trial),
    el("span", { class: "quiet" }, gridText(trial.label, whole)),
    flatBadge(whole));
  const scores = Object.entries(trial.scores).map(([key, value]) => factRow(axisOf(trial.metrics, key), formatNumber(value), null, hintOf(trial.metrics, key)));
  const below = scores.length ? el("dl", { class: "facts pairs" }, ...scores) : el("p", { class: "quiet" }, "Not scored.");
  return { trial, name, canvas, raw, shown: { size: trial.size, box, image, map: raw }, element: el("div", { class: "tile" }, el("span", { class: "image" }, canvas), caption, below) };
}

const imageUrl = (trial) =>
  withQuery(pathTo("image", where.experiment, trial.study, trial.number, trial.row), { split: answer.split, ...state.query(["map"]), ...viewQuery(state) });

const painted = () => tiles.filter((tile) => tile.canvas);

/** One scale for all; of maps divided by their means where trials are of several studies, whose maps have other units. */
function scaleRule() {
  const isMixed = new Set(painted().map((tile) => tile.trial.study)).size > 1;
  return viewOf(state).scale || (isMixed ? "shares" : "one");
}

function draw() {
  const view = viewOf(state);
  const rule = scaleRule();
  byId("scale").value = rule;
  for (const tile of painted()) tile.shown.map = rule === "shares" ? overMean(tile.raw) : tile.raw;
  const scales = scalesOf(painted().map((tile) => tile.shown.map), rule === "shares" ? "one" : rule);
  painted().forEach((tile, index) => {
    tile.scale = scales[index];
    paint(tile.canvas, tile.shown, view, { scale: tile.scale });
  });
  describeMap(byId("legend"), view, painted()[0]?.trial.label, painted().map((tile) => tile.trial.map));
  showLegend(byId("legend"), view, scales);
  byId("legend").hidden = !scales.length;
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
  legend.querySelector(".of").textContent = gridText("difference", map);
  showLegend(legend, signed, scale);
  const caption = el("span", { class: "names" }, el("span", { class: "true" }, `${first.name} − ${second.name}`));
  box.replaceChildren(el("div", { class: "tile" }, el("span", { class: "image" }, canvas), caption, legend));
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

/** The trials as a list to begin with: those ticked are compared. */
function fillChoice() {
  const boxes = where.choices.map((choice) => el("label", {}, el("input", { type: "checkbox", value: choice.t }), ` ${choice.label}`));
  byId("choice").replaceChildren(...(boxes.length ? boxes : [el("p", { class: "quiet" }, "No trial of this experiment has maps.")]));
  byId("choice-open").disabled = true;
  byId("choice").addEventListener("change", () => { byId("choice-open").disabled = !chosen().length; });
}

const chosen = () => [...byId("choice").querySelectorAll("input:checked")].map((input) => input.value);

function openChosen() {
  state.set({ t: chosen() }, { isStep: true });
  fillAdd();
  load();
}

function addTrial(t) {
  if (!t) return;
  state.set({ t: [...state.get("t"), t] }, { isStep: true });
  fillAdd();
  load();
}

function removeTrial(trial) {
  state.set({ t: state.get("t").filter((t) => t !== `${trial.study}:${trial.number}`) }, { isStep: true });
  fillAdd();
  load();
}

function showImage(image) {
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
  const shown = painted().map(({ canvas, trial, name }) => ({ canvas, lines: [name, shortCaption(trial)] }));
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

const name = () => fileName(where.experiment, "compare", answer.image, byId("map").value);
const png = () => painted().length && savePng(panels(), name());

bindPage();
bindView(state, draw);
fillAdd();
fillChoice();
byId("choice-open").addEventListener("click", openChosen);
byId("add").addEventListener("change", (event) => addTrial(event.target.value));
byId("map").addEventListener("change", (event) => chooseMap(event.target.value));
for (const id of ["first", "second"]) {
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
byId("previous").addEventListener("click", () => showImage(answer.previous));
byId("next").addEventListener("click", () => showImage(answer.next));
byId("save-png").addEventListener("click", png);
byId("save-svg").addEventListener("click", () => painted().length && saveSvg(svgPanels(), name()));
onKeys({
  ArrowLeft: () => showImage(answer.previous), ArrowRight: () => showImage(answer.next), "[": () => stepMap(-1), "]": () => stepMap(1),
  d: () => setDifference(state.get("difference") !== "1"), e: png,
});
window.addEventListener("popstate", () => {
  state.read();
  fillAdd();
  load();
});
load();
