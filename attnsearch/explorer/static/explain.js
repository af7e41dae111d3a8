// A photograph of one's own: dropped, pasted or chosen, explained by the kept model of a trial.

import { postJson } from "./ask.js";
import { fileName, savePng } from "./export.js";
import { factRow } from "./facts.js";
import { decodeMap, onImage, scalesOf } from "./field.js";
import { State, bindPage, byId, el, onKeys, pageData, pathTo, percent } from "./page.js";
import { fit, loadImage, paint } from "./paint.js";
import { flatBadge } from "./tile.js";
import { VIEW, bindView, describeMap, showLegend, viewOf } from "./view.js";

const where = pageData("where");
const state = new State({ ...VIEW, map: "" });
const canvas = byId("canvas");
const MEGABYTE = 2 ** 20;
let answer = null;
let parts = {};
let photo = null;
let lastRequest = 0;

const currentMap = () => (state.get("map") in parts ? state.get("map") : Object.keys(parts)[0]);

/** Key of each map -> its scale. */
function scalesNow() {
  const scales = scalesOf(Object.values(parts).map((part) => part.map), viewOf(state).scale);
  return Object.fromEntries(Object.keys(parts).map((key, index) => [key, scales[index]]));
}

function say(text, kind = "quiet") {
  byId("status").className = kind;
  byId("status").textContent = text;
}

async function explain(file) {
  if (!file) return;
  lastRequest += 1;
  const request = lastRequest;
  byId("result").hidden = true;
  if (file.size > where.max_bytes) {
    say(`${file.name} has ${Math.ceil(file.size / MEGABYTE)} MB, at most ${where.max_bytes / MEGABYTE} are read`, "error");
    return;
  }
  say(`Explaining ${file.name} …`);
  try {
    const path = pathTo("explain", where.experiment, where.study, where.number);
    const values = await postJson(path, { name: file.name, keep: byId("keep")?.checked ? "1" : "" }, file);
    if (request === lastRequest) await show(values);
  } catch (error) {
    if (request === lastRequest) say(error.message, "error");
  }
}

async function show(values) {
  answer = values;
  parts = Object.fromEntries(Object.entries(values.maps).map(([key, sent]) => [key, onImage(decodeMap(sent), values.size, values.box)]));
  photo = await loadImage(values.photo);
  byId("result").hidden = false;
  say(values.kept ? `${values.name} is explained, and kept in ${values.kept}` : `${values.name} is explained; it was not stored.`);
  showTop();
  byId("facts").replaceChildren(
    factRow("photograph", values.name, "id"),
    factRow("size", `${values.size[1]} × ${values.size[0]} px`),
    factRow("explained in", `${values.seconds} s`),
  );
  makeStrip();
  draw();
  document.body.dataset.ready = String(lastRequest);
}

function showTop() {
  byId("top")?.replaceChildren(
    ...answer.top.map(({ name, probability }) =>
      el("li", {}, el("span", { class: "class-name" }, name), el("span", { class: "number" }, percent(probability)), el("progress", { max: 1, value: probability, "aria-hidden": "true" }))),
  );
}

function makeStrip() {
  const [height, width] = answer.size;
  const share = 96 / Math.max(width, height);
  byId("strip").replaceChildren(...Object.keys(parts).map((key) =>
    el("button", { type: "button", role: "radio", "data-map": key, onclick: () => chooseMap(key) },
      el("canvas", { "aria-hidden": "true", width: Math.max(1, Math.round(width * share)), height: Math.max(1, Math.round(height * share)) }),
      el("span", {}, answer.labels[key]))));
}

function draw() {
  if (!answer || !currentMap()) return;
  const [key, view, scales] = [currentMap(), viewOf(state), scalesNow()];
  fit(canvas, answer.size, byId("frame").clientWidth, Math.max(260, Math.min(640, window.innerHeight * 0.62)));
  paint(canvas, { size: answer.size, image: photo, ...parts[key] }, view, { scale: scales[key] });
  describeMap(byId("legend"), view, answer.labels[key], parts[key].map);
  showLegend(byId("legend"), view, scales[key]);
  byId("badge").replaceChildren(...[flatBadge(parts[key].map)].filter(Boolean));
  canvas.setAttribute("aria-label", `${answer.name} under ${answer.labels[key]}`);
  drawStrip(scales);
}

function drawStrip(scales) {
  const view = { ...viewOf(state), contour: 0, opacity: Math.max(0.6, viewOf(state).opacity) };
  for (const item of byId("strip").children) {
    const part = parts[item.dataset.map];
    const isChosen = item.dataset.map === currentMap();
    item.setAttribute("aria-checked", String(isChosen));
    item.tabIndex = isChosen ? 0 : -1;
    paint(item.querySelector("canvas"), { size: answer.size, image: photo, ...part }, view, { scale: scales[item.dataset.map] });
  }
}

function chooseMap(key) {
  state.set({ map: key });
  draw();
  if (byId("strip").contains(document.activeElement)) byId("strip").querySelector("[aria-checked=true]").focus();
}

function stepMap(by) {
  const keys = Object.keys(parts);
  if (keys.length) chooseMap(keys[(keys.indexOf(currentMap()) + by + keys.length) % keys.length]);
}

const png = () =>
  answer && savePng([{ canvas, lines: [answer.top.length ? `${answer.top[0].name} ${percent(answer.top[0].probability)}` : answer.name, `${answer.labels[currentMap()]}, trial ${where.number} of ${where.study}`] }], fileName(where.study, `trial${where.number}`, answer.name, currentMap()));

function bindDrop() {
  const drop = byId("drop");
  const over = (isOver) => (event) => {
    event.preventDefault();
    drop.classList.toggle("over", isOver);
  };
  for (const kind of ["dragover", "dragenter"]) drop.addEventListener(kind, over(true));
  drop.addEventListener("dragleave", over(false));
  drop.addEventListener("drop", (event) => {
    over(false)(event);
    explain(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => explain(event.clipboardData?.files[0]));
  byId("file").addEventListener("change", (event) => {
    explain(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
}

bindPage();
if (byId("drop")) {
  bindDrop();
  bindView(state, draw);
  byId("save-png").addEventListener("click", png);
  byId("strip").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (by) {
      event.preventDefault();
      stepMap(by);
    }
  });
  onKeys({ "[": () => stepMap(-1), "]": () => stepMap(1), e: png });
  window.addEventListener("resize", draw);
}
