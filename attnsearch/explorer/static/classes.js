// The classes of a trial: a table of all, and the mean map and the images of one.

import { factRow } from "./facts.js";
import { decodeMap, scalesOf } from "./field.js";
import { State, bindPage, byId, el, formatNumber, formatWithError, getJson, pageData, pathTo, percent, showError, withQuery } from "./page.js";
import { fit, paint } from "./paint.js";
import { Tiles } from "./tiles.js";
import { VIEW, bindView, describeMap, showLegend, viewOf, viewQuery } from "./view.js";

const where = pageData("where");
const state = new State({ ...VIEW, class: "", order: "accuracy", split: "" });
const tiles = new Tiles(where, state);
const LOWEST_FIRST = { accuracy: 1, gain: 1, label: 1, n: -1 };
const CELL_PX = 32;
const MEAN_PX = 420;
let found = null;
let mean = null;

const link = (name) => withQuery(window.location.pathname, { split: where.split, ...state.query(["order"]), ...viewQuery(state), class: name });
const pairLink = (first, second) =>
  withQuery(pathTo("failures", where.experiment, where.study, where.number), { split: where.split, kind: "pair", first: Math.min(first, second), second: Math.max(first, second) });

async function load() {
  try {
    found = await getJson(pathTo("api", "classes", where.experiment, where.study, where.number), { split: where.split, class: state.get("class") });
    showTable();
    if (found.detail) showDetail();
  } catch (error) {
    showError(byId("table").parentElement, error);
  }
  document.body.dataset.ready = "1";
}

const ofClass = () => found.classes.find((one) => one.name === state.get("class"));

/** Undefined values stand last. */
function sorted() {
  const key = state.get("order") in LOWEST_FIRST ? state.get("order") : "accuracy";
  const value = (one) => (one[key] === null ? Infinity : LOWEST_FIRST[key] * one[key]);
  return [...found.classes].sort((a, b) => value(a) - value(b) || a.label - b.label);
}

const confusedWith = (one, n) =>
  one.confused.slice(0, n).flatMap((other, index) => [index ? ", " : "", el("a", { href: pairLink(one.label, other.label) }, `${other.name} (${other.n})`)]);

function showTable() {
  const titles = ["Class", "Images", "Accuracy", "Precision", "Relevance gain", "Taken for"];
  const head = el("tr", {}, ...titles.map((title, index) => el("th", { scope: "col", class: index && index < 5 ? "number" : null }, title)));
  const rows = sorted().map((one) =>
    el("tr", { class: one.name === state.get("class") ? "best" : null },
      el("td", {}, el("a", { href: link(one.name) }, one.name)),
      ...[one.n, percent(one.accuracy), percent(one.precision), one.scored ? formatWithError(one.gain, one.gain_error) : "–"].map((text) => el("td", { class: "number" }, String(text))),
      el("td", {}, ...confusedWith(one, 3))));
  byId("table").className = "classes";
  byId("table").replaceChildren(el("thead", {}, head), el("tbody", {}, ...rows));
}

function gainText(one) {
  if (!one.scored) return "not scored";
  return one.gain === null ? `undefined for these ${one.scored} images: removing cells changes too little` : `${formatWithError(one.gain, one.gain_error)} of ${one.scored} images`;
}

function showDetail() {
  const [one, detail] = [ofClass(), found.detail];
  byId("title").textContent = `${one.name}, trial ${where.number}`;
  byId("detail").hidden = false;
  byId("facts").replaceChildren(
    factRow("images", `${one.n} of ${found.split}`),
    factRow("accuracy", percent(one.accuracy)),
    factRow("precision", percent(one.precision), null, "Of the images that are taken for this class, how many are of it"),
    factRow("confidence", percent(one.confidence), null, "Mean over its images"),
    factRow("relevance gain", gainText(one)),
    factRow("taken for", one.confused.length ? el("span", {}, ...confusedWith(one)) : "no other class"),
  );
  mean = detail.mean && decodeMap(detail.mean);
  byId("mean-text").textContent = mean ? "Mean of its images in the model's view, each map divided by its sum." : "There are no maps of this class.";
  byId("frame").hidden = !mean;
  drawMean();
  byId("lists").replaceChildren(
    list("Taken for other classes", "The most confident first.", detail.missed),
    list("Other classes taken for it", "The most confident first.", detail.taken),
    list("Correct", "The least confident first.", detail.correct),
  );
  tiles.watch();
}

function drawMean() {
  if (!mean) return;
  const size = [mean.h * CELL_PX, mean.w * CELL_PX];
  const view = { ...viewOf(state), opacity: 1, isUniform: true, contour: 0 };
  fit(byId("mean"), size, Math.min(MEAN_PX, byId("frame").clientWidth), MEAN_PX);
  const [scale] = scalesOf([mean], view.scale);
  paint(byId("mean"), { size, box: [0, 0, size[1], size[0]], image: null, map: mean }, view, { scale });
  describeMap(byId("legend"), view, "mean saliency", mean);
  showLegend(byId("legend"), view, scale);
}

function list(title, text, { total, images }) {
  const part = images.length < total ? `, ${images.length} of them shown` : "";
  return el("section", { class: "panel finding", "aria-label": title }, el("h2", {}, `${title} (${formatNumber(total)})`), el("p", { class: "quiet" }, total ? `${text.slice(0, -1)}${part}.` : "No such image."), tiles.grid(images));
}

bindPage();
if (byId("table")) {
  bindView(state, () => {
    tiles.draw();
    drawMean();
  });
  byId("order").value = state.get("order");
  byId("order").addEventListener("change", (event) => {
    state.set({ order: event.target.value });
    showTable();
  });
  load();
}
