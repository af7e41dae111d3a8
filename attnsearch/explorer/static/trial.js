// The images of a trial as a grid, with filters, order and pages.

import { fileName, savePng, saveSvg } from "./export.js";
import { State, bindPage, byId, el, getJson, moveFocus, onKeys, pageData, pathTo, showError, withQuery } from "./page.js";
import { showPages } from "./pages.js";
import { Tile, shortCaption } from "./tile.js";
import { VIEW, bindView, viewOf, viewQuery } from "./view.js";

const where = pageData("where");
const FILTERS = { role: "all", verdict: "all", true: "", predicted: "", low: "", high: "", metric: "", least: "", most: "", order: "row", down: "" };
const keys = Object.keys(where.maps);
const state = new State({ ...VIEW, ...FILTERS, split: "", map: keys[0] ?? "", page: "1" });
let tiles = [];
let lastRequest = 0;

const filterQuery = () => state.query(Object.keys(FILTERS));
const link = (row) =>
  withQuery(pathTo("image", where.experiment, where.study, where.number, row), { split: where.split, ...state.query(["map"]), ...viewQuery(state) });

async function load() {
  lastRequest += 1;
  const request = lastRequest;
  const query = { ...filterQuery(), split: where.split, map: state.get("map"), page: state.get("page") };
  try {
    const page = await getJson(pathTo("api", "grid", where.experiment, where.study, where.number), query);
    if (request === lastRequest) show(page);
  } catch (error) {
    showError(byId("grid"), error);
  }
}

function show(page) {
  tiles = page.images.map((image) => new Tile(image, where, link(image.row)));
  byId("grid").replaceChildren(...tiles.map((tile) => tile.element));
  for (const tile of tiles) tile.load(viewOf(state));
  const part = page.matching === page.total ? `${page.total} images` : `${page.matching} of ${page.total} images`;
  byId("count").textContent = page.images.some((image) => !image.source) ? `${part}; grey: neither a small copy nor the data set is on this machine` : part;
  byId("no-targets").hidden = page.has_targets;
  const filters = Object.keys(filterQuery()).filter(byId).map(filterText);
  byId("filter-words").textContent = filters.length ? `(${filters.join(", ")})` : "";
  showPages(byId("pages"), page, turn);
  byId("pages").dataset.last = page.pages;
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

bindPage();
if (keys.length) {
  bindView(state, () => tiles.forEach((tile) => tile.draw(viewOf(state))));
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
