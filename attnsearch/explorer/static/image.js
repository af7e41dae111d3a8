// One image in detail: every map, the masked image, deletion and insertion curves.

import { fileName, savePng, saveSvg } from "./export.js";
import { decodeMap, onImage, scalesOf, valueAt } from "./field.js";
import { MASK, MaskPanel } from "./mask.js";
import { State, bindPage, byId, el, formatNumber, getJson, onKeys, pageData, pathTo, percent, showError, withQuery } from "./page.js";
import { boxOn, contourOn, fit, levelOf, loadImage, paint } from "./paint.js";
import { factRow, showScores } from "./facts.js";
import { offerScores } from "./score.js";
import { captionOf, confidenceText, flatBadge, imageFileUrl, predictionText, verdictClass } from "./tile.js";
import { VIEW, bindView, describeMap, showLegend, viewOf, viewQuery } from "./view.js";

const where = pageData("where");
const state = new State({ ...VIEW, ...MASK, split: "", map: "", original: "0" });
const mask = new MaskPanel(state, () => draw());
const canvas = byId("canvas");
let image = null;
let maps = {};
let visible = {};
let loaded = {};

const currentMap = () => (state.get("map") in maps ? state.get("map") : Object.keys(maps)[0]);
const isOriginal = () => state.get("original") === "1" && Boolean(image?.original);

async function load() {
  try {
    image = await getJson(pathTo("api", "image", where.experiment, where.study, where.number, where.row), { split: where.split });
  } catch (error) {
    showError(byId("frame"), error);
    return;
  }
  maps = Object.fromEntries(Object.entries(image.maps).map(([key, sent]) => [key, decodeMap(sent)]));
  visible = Object.fromEntries(Object.entries(maps).map(([key, map]) => [key, onImage(map, image.size, image.box)]));
  loaded.small = await loadImage(image.source ? imageFileUrl(where, where.row, 512) : null);
  showFacts();
  offerScores(where, image, () => {
    showScores(image);
    draw();
  });
  makeStrip();
  bindOriginal();
  await draw();
  document.body.dataset.ready = "1";
}

/** What is painted: the cells on the image; under a mask all of them, as they were counted when it was scored. */
function shown() {
  const key = currentMap();
  const uncut = { map: key ? maps[key] : null, box: image.box };
  return { size: image.size, image: isOriginal() ? loaded.full : loaded.small, ...(masked() || !key ? uncut : visible[key]) };
}

/** The scale of one map: that of all maps of the image, or its own. */
function scaleFor(key) {
  const { scale } = viewOf(state);
  const shown = Object.entries(visible).filter(([other]) => scale === "one" || other === key);
  return scalesOf(shown.map(([, part]) => part.map), scale)[0];
}

const scaleNow = () => (currentMap() ? scaleFor(currentMap()) : null);

const masked = () => mask.masked(image.settings);

async function draw() {
  if (!image) return;
  if (isOriginal() && !loaded.full) loaded.full = await loadImage(imageFileUrl(where, where.row, 0));
  size();
  paint(canvas, shown(), viewOf(state), { scale: scaleNow(), masked: masked() });
  describeMap(byId("legend"), viewOf(state), image.labels[currentMap()], maps[currentMap()]);
  showLegend(byId("legend"), viewOf(state), scaleNow());
  byId("badge").replaceChildren(...[flatBadge(maps[currentMap()])].filter(Boolean));
  drawStrip();
  mask.draw(image, maps[currentMap()]);
  followView();
}

/** Fits the canvas to its frame, or gives it the size of the original. */
function size() {
  const frame = byId("frame");
  frame.classList.toggle("original", isOriginal());
  if (isOriginal()) {
    [canvas.height, canvas.width] = image.size;
    canvas.style.width = `${image.size[1]}px`;
  } else {
    fit(canvas, image.size, frame.clientWidth, Math.max(260, Math.min(640, window.innerHeight * 0.62)));
  }
}

const galleryUrl = () => withQuery(pathTo("query", where.experiment, where.study, where.number, image.split_row), { split: where.split, ...viewQuery(state) });

function showFacts() {
  const { pointing } = image;
  const without = Object.entries(pointing?.floors ?? {}).map(([name, value]) => `${name} ${percent(value)}`);
  const floors = without.length ? ` (${without.join(", ")})` : "";
  const hit = image.hit === null ? [] : [factRow("pointing game", `${image.hit ? "hit" : "miss"}${floors}`, image.hit ? "verdict correct" : "verdict misplaced", floors ? "in brackets: how often a map without information hits, of all images of validation" : null)];
  const isQuery = image.role === "query";
  byId("facts").replaceChildren(
    ...(image.role ? [factRow("part", image.role), factRow("identity", image.true), ...(image.camera ? [factRow("camera", image.camera)] : [])] : [factRow("true", image.true)]),
    ...(image.role === "gallery" ? [] : [factRow(isQuery ? "first hit" : "predicted", predictionText(image), verdictClass(image)), factRow(isQuery ? "cosine" : "confidence", confidenceText(image))]),
    ...hit,
    factRow("image", image.id, "id"),
    factRow("original", `${image.size[1]} × ${image.size[0]} px`),
    ...(isQuery && image.split_row !== undefined ? [factRow("gallery", el("a", { href: galleryUrl() }, "ranked for this query"))] : []),
  );
  showScores(image);
}

/** Small images of every map, to choose from. */
function makeStrip() {
  const [height, width] = image.size;
  const items = Object.keys(maps).map((key) => {
    const small = el("canvas", { "aria-hidden": "true", width: Math.round((96 * width) / Math.max(width, height)), height: Math.round((96 * height) / Math.max(width, height)) });
    const item = el("button", { type: "button", role: "radio", "data-map": key, onclick: () => chooseMap(key) }, small, el("span", {}, image.labels[key]));
    return item;
  });
  byId("strip").replaceChildren(...items);
}

function drawStrip() {
  const view = { ...viewOf(state), contour: 0, opacity: Math.max(0.6, viewOf(state).opacity) };
  for (const item of byId("strip").children) {
    const part = visible[item.dataset.map];
    const isChosen = item.dataset.map === currentMap();
    item.setAttribute("aria-checked", String(isChosen));
    item.tabIndex = isChosen ? 0 : -1;
    paint(item.querySelector("canvas"), { size: image.size, image: loaded.small, ...part }, view, { scale: scaleFor(item.dataset.map) });
  }
}

function chooseMap(key) {
  state.set({ map: key });
  draw();
  const item = [...byId("strip").children].find((one) => one.dataset.map === key);
  item?.scrollIntoView({ block: "nearest", inline: "nearest" });
  if (byId("strip").contains(document.activeElement)) item?.focus();
}

function stepMap(by) {
  const keys = Object.keys(maps);
  if (keys.length) chooseMap(keys[(keys.indexOf(currentMap()) + by + keys.length) % keys.length]);
}

function bindOriginal() {
  byId("original").checked = isOriginal();
  byId("original").disabled = !image.original;
  byId("original-label").title = image.original ? "" : "The data set is not on this machine";
}

function setOriginal(isOn) {
  if (!image?.original) return;
  state.set({ original: isOn ? "1" : "0" });
  byId("original").checked = isOn;
  draw();
}

/** Links to other images keep the map and the view. */
function followView() {
  const query = { split: where.split, ...state.query(["map", "mask", "share", "original"]), ...viewQuery(state) };
  for (const id of ["previous", "next"]) {
    const link = byId(id);
    if (link.hasAttribute("href")) link.href = withQuery(new URL(link.href).pathname, query);
  }
  byId("back").href = withQuery(new URL(byId("back").href).pathname, { split: where.split, ...state.query(["map"]), ...viewQuery(state) });
  byId("compare").href = withQuery(pathTo("compare", where.experiment), {
    image: where.image, split: where.split, t: [`${where.study}:${where.number}`], ...state.query(["map"]), ...viewQuery(state),
  });
}

/** Shows the value of the map under the pointer. */
function point(event) {
  const frame = canvas.getBoundingClientRect();
  const x = ((event.clientX - frame.left) / frame.width) * image.size[1];
  const y = ((event.clientY - frame.top) / frame.height) * image.size[0];
  const { map, box } = shown();
  const value = map ? valueAt(map, box, x, y) : NaN;
  byId("pointed").textContent = `x ${Math.floor(x)}, y ${Math.floor(y)}: ${Number.isNaN(value) ? "outside of the model's input" : formatNumber(value)}`;
}

const name = () => fileName(where.study, `trial${where.number}`, where.image, currentMap() ?? "image");
const lines = () => [
  captionOf(image),
  `${image.labels[currentMap()] ?? "no map"}, trial ${where.number} of ${where.study}`,
];
const png = () => savePng([{ canvas, lines: lines() }], name());

/** The image without its contour, which becomes lines of its own. */
function svg() {
  const view = viewOf(state);
  const copy = el("canvas", { width: canvas.width, height: canvas.height });
  paint(copy, shown(), { ...view, contour: 0 }, { scale: scaleNow(), masked: masked() });
  const { map } = shown();
  const contour = view.contour > 0 && map ? contourOn(map, boxOn(copy, shown()), levelOf(view, scaleNow())) : [];
  saveSvg([{ canvas: copy, lines: lines(), contour }], name());
}

const follow = (id) => byId(id).hasAttribute("href") && byId(id).click();

bindPage();
bindView(state, draw);
byId("save-png").addEventListener("click", png);
byId("save-svg").addEventListener("click", svg);
byId("original").addEventListener("change", (event) => setOriginal(event.target.checked));
canvas.addEventListener("pointermove", (event) => image && point(event));
byId("strip").addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (by) {
    event.preventDefault();
    event.stopPropagation();
    stepMap(by);
  }
});
onKeys({
  ArrowLeft: () => follow("previous"), ArrowRight: () => follow("next"), "[": () => stepMap(-1), "]": () => stepMap(1),
  o: () => setOriginal(!isOriginal()), x: () => follow("compare"), e: png,
});
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) {
    width = window.innerWidth;
    draw();
  }
});
load();
