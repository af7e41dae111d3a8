// A trial: its learning curve, and its images as a grid with filters, order and pages.

import { fileName, savePng, saveSvg } from "./export.js";
import { scalesOf } from "./field.js";
import { State, axisOf, bindPage, byId, el, formatNumber, getJson, moveFocus, onKeys, pageData, pathTo, showError, titleOf, withQuery } from "./page.js";
import { showPages } from "./pages.js";
import { LINE_COLOURS, lines } from "./plot.js";
import { Tile, shortCaption } from "./tile.js";
import { VIEW, bindView, describeMap, showLegend, viewOf, viewQuery } from "./view.js";

const where = pageData("where");
const FILTERS = { role: "all", verdict: "all", true: "", predicted: "", low: "", high: "", metric: "", least: "", most: "", order: "turns", down: "" };
const keys = Object.keys(where.maps);
const state = new State({ ...VIEW, ...FILTERS, split: "", map: keys[0] ?? "", page: "1", curve: "" });
let tiles = [];
let lastRequest = 0;

const filterQuery = () => state.query(Object.keys(FILTERS));
const link = (row) =>
  withQuery(pathTo("image", where.experiment, where.study, where.number, row), { split: where.split, ...state.query(["map"]), ...viewQuery(state) });

async function load() {
  lastRequest += 1;
  const request = lastRequest;
  const query = { ...filterQuery(), order: state.get("order"), split: where.split, map: state.get("map"), page: state.get("page") };
  try {
    const page = await getJson(pathTo("api", "grid", where.experiment, where.study, where.number), query);
    if (request === lastRequest) show(page);
  } catch (error) {
    showError(byId("grid"), error);
  }
}

function show(page) {
  tiles = page.images.map((image) => new Tile(image, where, link(image.row), { score: scoreOf(image) }));
  byId("grid").replaceChildren(...tiles.map((tile) => tile.element));
  draw((tile, scale) => tile.load(viewOf(state), scale));
  const part = page.matching === page.total ? `${page.total} images` : `${page.matching} of ${page.total} images`;
  byId("count").textContent = page.images.some((image) => !image.source) ? `${part}; grey: neither a small copy nor the data set is on this machine` : part;
  byId("no-targets").hidden = page.has_targets;
  const filters = Object.keys(filterQuery()).filter(byId).map(filterText);
  byId("filter-words").textContent = filters.length ? `(${filters.join(", ")})` : "";
  showPages(byId("pages"), page, turn);
  byId("pages").dataset.last = page.pages;
}

/** The score that the images are ordered by. */
function scoreOf(image) {
  const name = state.get("order");
  if (!where.metrics.includes(name)) return null;
  return { label: titleOf(where.about, name), value: name in image.scores ? formatNumber(image.scores[name]) : "not scored" };
}

/** Paints all tiles, each on its scale. */
function draw(paintTile = (tile, scale) => tile.draw(viewOf(state), scale)) {
  const view = viewOf(state);
  const scales = scalesOf(tiles.map((tile) => tile.shown.map), view.scale);
  tiles.forEach((tile, index) => paintTile(tile, scales[index]));
  byId("legend").hidden = !scales.some(Boolean);
  if (!scales.some(Boolean)) return;
  describeMap(byId("legend"), view, where.maps[state.get("map")], tiles.find((tile) => tile.image.map).image.map);
  showLegend(byId("legend"), view, scales);
}

/** A filter as its control shows it: "Prediction correct". */
function filterText(id) {
  const control = byId(id);
  if (control.type === "checkbox") return control.parentElement.textContent.trim();
  return `${control.labels[0].textContent} ${control.selectedOptions?.[0]?.textContent ?? control.value}`;
}

function turn(to) {
  const last = Number(byId("pages").dataset.last ?? 1);
  if (to < 1 || to > last) return;
  state.set({ page: String(to) }, { isStep: true });
  load();
  byId("grid").scrollIntoView({ block: "start" });
}

/** Puts the state into the controls. */
function showState() {
  for (const id of [...Object.keys(FILTERS), "map"]) {
    const control = byId(id);
    if (!control) continue;
    if (control.type === "checkbox") control.checked = state.get(id) === "1";
    else control.value = state.get(id);
  }
  if (byId("split")) byId("split").value = where.split;
  if (Object.keys(filterQuery()).length && window.innerWidth > 560) byId("filters").open = true;
}

function bindFilters() {
  for (const id of Object.keys(FILTERS)) {
    byId(id)?.addEventListener("change", (event) => {
      const value = event.target.type === "checkbox" ? (event.target.checked ? "1" : "") : event.target.value;
      state.set({ [id]: value, page: "1" }, { isStep: true });
      load();
    });
  }
  byId("reset").addEventListener("click", () => {
    state.set({ ...FILTERS, page: "1" }, { isStep: true });
    showState();
    load();
  });
  byId("map").addEventListener("change", (event) => chooseMap(event.target.value));
  byId("split")?.addEventListener("change", (event) => {
    window.location.href = withQuery(window.location.pathname, { ...state.query(), split: event.target.value, page: "" });
  });
}

function chooseMap(key) {
  state.set({ map: key });
  byId("map").value = key;
  load();
}

const stepMap = (by) => chooseMap(keys[(keys.indexOf(state.get("map")) + by + keys.length) % keys.length]);

const move = (columns, rows) => moveFocus(tiles.map((tile) => tile.element), columns, rows);

const panels = () =>
  tiles.map(({ canvas, image }) => ({ canvas, lines: [image.true, shortCaption(image)] }));
const name = () => fileName(where.study, `trial${where.number}`, where.split, state.get("map"), `page${state.get("page")}`);
const png = () => savePng(panels(), name(), 6);

/** Metrics of validation by epoch, each with what training reached. */
async function loadCurve() {
  const path = pathTo("api", "epochs", where.experiment, where.study);
  const epochs = (await getJson(path, { trials: where.number }))[where.number] ?? {};
  const measured = Object.keys(epochs).filter((key) => key.startsWith("val/") && epochs[key].some(Number.isFinite));
  byId("curve-panel").hidden = !measured.length;
  if (!measured.length) return;
  byId("curve").replaceChildren(...measured.map((key) => el("option", { value: key }, axisOf(where.about, key))));
  const drawCurve = () => {
    const key = measured.includes(state.get("curve")) ? state.get("curve") : measured.includes(where.monitor) ? where.monitor : measured[0];
    byId("curve").value = key;
    const line = (name, values, isDashed) => ({ name, xs: epochs.epoch, ys: values, colour: LINE_COLOURS[0], isDashed });
    const training = epochs[key.replace("val/", "train/")];
    lines(byId("epochs"), [line("validation", epochs[key]), ...(training ? [line("training", training, true)] : [])], { yLabel: axisOf(where.about, key), height: 220 });
    byId("epochs-note").textContent = `${where.best_epoch ? `Best epoch: ${where.best_epoch}.` : ""}${training ? " Dashed: training." : ""}`;
  };
  byId("curve").addEventListener("change", (event) => {
    state.set({ curve: event.target.value });
    drawCurve();
  });
  drawCurve();
}

bindPage();
loadCurve().catch((error) => showError(byId("epochs"), error));
if (keys.length) {
  bindView(state, () => draw());
  bindFilters();
  showState();
  byId("save-png").addEventListener("click", png);
  byId("save-svg").addEventListener("click", () => saveSvg(panels(), name(), 6));
  // a link carries the view as it is when it is followed
  byId("grid").addEventListener("pointerdown", keepView);
  byId("grid").addEventListener("focusin", keepView);
  onKeys({
    ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1),
    "[": () => stepMap(-1), "]": () => stepMap(1), n: () => turn(state.number("page") + 1), p: () => turn(state.number("page") - 1), e: png,
  });
  window.addEventListener("popstate", () => {
    state.read();
    showState();
    load();
  });
  load();
}

function keepView(event) {
  const element = event.target.closest?.("a.tile");
  if (element) element.href = link(element.dataset.row);
}
