// One query and its ranked gallery: frames and marks tell matches from others, maps lie over the images on request.

import { factRow } from "./facts.js";
import { State, bindPage, byId, el, formatNumber, getJson, moveFocus, onKeys, pageData, pathTo, showError, withQuery } from "./page.js";
import { FILTERS, MappedImage, RankedTile, pairUrl, queryUrl, shapeGrid, sourceText, tileScales } from "./ranked.js";
import { VIEW, bindView, describeMap, showLegend, showView, viewOf, viewQuery } from "./view.js";

const where = pageData("where");
const keys = Object.keys(where.maps);
const state = new State({ ...VIEW, ...FILTERS, opacity: "0", split: "", top: "10", removed: "", map: "", scale: "one" });
let answer = null;
let tiles = [];
let missed = [];
let queryImage = null;
let lastRequest = 0;

const currentMap = () => (keys.includes(state.get("map")) ? state.get("map") : (keys[0] ?? ""));
const isCovered = () => keys.length > 0 && viewOf(state).opacity > 0;
const kept = () => ({ ...state.query([...Object.keys(FILTERS), "top", "removed", "map", "scale"]), ...viewQuery(state) });

async function load() {
  lastRequest += 1;
  const request = lastRequest;
  const query = { ...state.query(Object.keys(FILTERS)), split: where.split, top: state.get("top"), map: isCovered() ? currentMap() : "" };
  try {
    const latest = await getJson(pathTo("api", "query", where.experiment, where.study, where.number, where.row), query);
    if (request !== lastRequest) return;
    answer = { ...latest, map: query.map };
    show();
  } catch (error) {
    showError(byId("gallery"), error);
  }
}

function show() {
  const { query, removed_as: removedAs } = answer;
  const make = (image) => new RankedTile(where, image, pairUrl(where, where.row, image.row), removedAs);
  tiles = answer.gallery.map(make);
  missed = answer.missed.map(make);
  shapeGrid(byId("gallery"), [query, ...answer.gallery]);
  shapeGrid(byId("missed"), [query, ...answer.gallery]);
  byId("missed").replaceChildren(...missed.map((tile) => tile.element));
  byId("missed-box").hidden = !missed.length;
  const nListed = answer.gallery.filter((image) => image.match).length;
  byId("missed-title").textContent = `The nearest ${missed.length} of ${query.n_matches - nListed} matches further down`;
  showQuery(query);
  place();
  draw();
  document.body.dataset.ready = "1";
}

/** The tiles that are shown: without those that are left out of the ranking, unless they are asked for. */
const shownTiles = () => tiles.filter((tile) => state.get("removed") === "1" || tile.image.rank !== null);

function place() {
  byId("gallery").replaceChildren(...shownTiles().map((tile) => tile.element));
  const nRanked = tiles.filter((tile) => tile.image.rank !== null).length;
  const nMatches = tiles.filter((tile) => tile.image.match).length;
  const nRemoved = tiles.length - nRanked;
  const left = nRemoved ? `; ${nRemoved} left out among them (${answer.removed_as})` : "";
  byId("words").textContent = `${nMatches} of ${answer.query.n_matches} matches among the ${nRanked} nearest of ${answer.n_gallery} gallery images${left}`;
}

function showQuery(query) {
  queryImage = new MappedImage(where, query, 512);
  queryImage.thumb.alt = `query ${query.id}`;
  byId("query-image").replaceChildren(queryImage.element);
  if (query.archived !== null) {
    byId("query-image").href = withQuery(pathTo("image", where.experiment, where.study, where.number, query.archived), { split: where.split });
    byId("query-image").title = "All maps of this image";
  }
  const source = sourceText(query);
  byId("facts").replaceChildren(
    factRow("AP", query.ap === null ? "undefined: no match" : query.ap.toFixed(4)),
    factRow("first match", query.first_match === null ? "–" : `rank ${formatNumber(query.first_match)}`),
    factRow("INP", query.inp === null ? "–" : query.inp.toFixed(4), null, "inverse negative penalty: matches divided by the rank of the last one"),
    factRow("matches", formatNumber(query.n_matches)),
    factRow("left out", `${query.n_removed} (${answer.removed_as})`),
    factRow("identity", query.identity),
    factRow("identity mAP", query.identity_ap === null ? "–" : query.identity_ap.toFixed(4), null, "mean average precision of the queries of this identity"),
    ...(source ? [factRow(query.camera === null ? "group" : "camera", query.camera ?? query.group)] : []),
    factRow("image", query.id, "id"),
  );
}

function showPlace() {
  for (const [id, row] of [["previous", answer.previous], ["next", answer.next]]) {
    const link = byId(id);
    if (row === null) link.removeAttribute("href");
    else link.href = queryUrl(where, row, kept());
  }
  byId("place").textContent = answer.place === null ? "" : `${answer.place + 1} of ${answer.matching}`;
}

/** Maps are fetched when they are first shown. */
function draw() {
  if (!answer) return;
  const isWaiting = isCovered() && answer.map !== currentMap();
  if (isWaiting) load();
  const view = viewOf(state);
  const all = [queryImage, ...tiles, ...missed];
  const scales = tileScales(all, view);
  all.forEach((one, index) => one.draw(view, scales[index]));
  showControls();
  if (keys.length) {
    const mapped = all.find((one) => one.map);
    if (mapped) describeMap(byId("legend"), view, where.maps[currentMap()], mapped.image.map);
    if (mapped) showLegend(byId("legend"), view, scales);
    byId("legend").hidden = !isCovered() || !mapped;
  }
  followView();
}

function showControls() {
  byId("top").value = state.get("top");
  byId("removed").checked = state.get("removed") === "1";
  if (!keys.length) return;
  byId("overlay").checked = isCovered();
  byId("map").value = currentMap();
}

/** Links carry the view as it is. */
function followView() {
  const query = { split: where.split, ...state.query(Object.keys(FILTERS)) };
  byId("back").href = withQuery(pathTo("retrieval", where.experiment, where.study, where.number), query);
  byId("trials").href = withQuery(pathTo("query-trials", where.experiment, where.study), { image: where.image, split: where.split });
  for (const tile of [...tiles, ...missed]) {
    tile.element.href = pairUrl(where, where.row, tile.image.row, { ...state.query(["map"]), ...(isCovered() ? viewQuery(state) : {}) });
  }
  showPlace();
}

function change(changes) {
  state.set(changes);
  load();
}

function showRemoved(isOn) {
  state.set({ removed: isOn ? "1" : "" });
  place();
  draw();
}

function showMaps(isOn) {
  state.set({ opacity: isOn ? VIEW.opacity : "0" });
  showView(state);
  if (isOn) byId("view").open = window.innerWidth > 560;
  draw();
}

const follow = (id) => byId(id).hasAttribute("href") && byId(id).click();
const move = (columns, rows) => moveFocus([...shownTiles(), ...missed].map((tile) => tile.element), columns, rows);

bindPage();
byId("top").addEventListener("change", (event) => change({ top: event.target.value }));
byId("removed").addEventListener("change", (event) => showRemoved(event.target.checked));
if (keys.length) {
  bindView(state, draw);
  byId("overlay").addEventListener("change", (event) => showMaps(event.target.checked));
  byId("map").addEventListener("change", (event) => {
    state.set({ map: event.target.value });
    draw();
  });
}
onKeys({
  ArrowLeft: () => move(-1, 0), ArrowRight: () => move(1, 0), ArrowUp: () => move(0, -1), ArrowDown: () => move(0, 1),
  n: () => follow("next"), p: () => follow("previous"), x: () => follow("trials"), r: () => showRemoved(state.get("removed") !== "1"),
});
load();
