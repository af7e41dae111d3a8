// A query and one gallery image side by side, each under its map, and what removing cells of the query does.

import { fileName, savePng, saveSvg } from "./export.js";
import { factRow, showScores } from "./facts.js";
import { decodeMap, onImage, scalesOf, valueAt } from "./field.js";
import { MASK, MaskPanel } from "./mask.js";
import { State, bindPage, byId, el, formatNumber, getJson, onKeys, pageData, pathTo, showError, withQuery } from "./page.js";
import { boxOn, contourOn, fit, levelOf, loadImage, paint } from "./paint.js";
import { cosineText, pairUrl, queryUrl, sourceText, splitImageUrl, verdictOf } from "./ranked.js";
import { VIEW, bindView, describeMap, showLegend, viewOf, viewQuery } from "./view.js";

const where = pageData("where");
const keys = Object.keys(where.maps);
const SIDES = ["query", "other"];
const state = new State({ ...VIEW, ...MASK, split: "", map: "", scale: "one" });
const mask = new MaskPanel(state, () => draw());
let answer = null;
const loaded = {};

const currentMap = () => (keys.includes(state.get("map")) ? state.get("map") : (keys[0] ?? ""));

async function load() {
  try {
    answer = await getJson(pathTo("api", "pair", where.experiment, where.study, where.number, where.row, where.other), { split: where.split });
  } catch (error) {
    showError(byId("query-figure"), error);
    return;
  }
  for (const side of SIDES) {
    const image = answer[side];
    const pixels = await loadImage(image.source ? splitImageUrl(where, image.row, 512) : null);
    loaded[side] = { pixels, size: image.size ?? (pixels ? [pixels.naturalHeight, pixels.naturalWidth] : [1, 1]) };
  }
  showFacts();
  showScores(answer);
  await draw();
  document.body.dataset.ready = "1";
}

/** What is painted of one side; under a mask all cells of the query, as they were counted when it was scored. */
function shownOf(side, isWhole = false) {
  const { size, pixels } = loaded[side];
  const { box, maps } = answer[side];
  const sent = maps[currentMap()];
  const plain = { size, image: pixels, box: box ?? [0, 0, size[1], size[0]], map: null };
  if (!sent) return plain;
  const map = decodeMap(sent);
  return isWhole ? { ...plain, map } : { ...plain, ...onImage(map, size, box) };
}

const masked = (side) => (side === "query" ? mask.masked(answer.settings) : null);

function scales() {
  const [query, other] = scalesOf(SIDES.map((side) => shownOf(side).map), viewOf(state).scale);
  return { query, other };
}

function draw() {
  if (!answer) return;
  const view = viewOf(state);
  const used = scales();
  for (const side of SIDES) {
    const canvas = byId(side);
    fit(canvas, loaded[side].size, canvas.parentElement.clientWidth, Math.max(240, Math.min(620, window.innerHeight * 0.6)));
    paint(canvas, shownOf(side, Boolean(masked(side))), view, { scale: used[side], masked: masked(side) });
  }
  const sent = SIDES.map((side) => answer[side].maps[currentMap()]).find(Boolean);
  describeMap(byId("legend"), view, where.maps[currentMap()], sent);
  showLegend(byId("legend"), view, [used.query, used.other]);
  byId("legend").hidden = !sent;
  if (keys.length) byId("map").value = currentMap();
  mask.draw(answer, shownOf("query", true).map);
  followView();
}

/** What is shown: "Query 0043 beside an image of 0068: another identity". */
function titleOf(query, other) {
  const { kind, words } = verdictOf(other, answer.removed_as);
  const shown = other.distractor ? "a gallery image" : `an image of ${other.identity}`;
  const verdict = { match: "a match", removed: `left out (${answer.removed_as})` }[kind] ?? words;
  return `Query ${query.identity} beside ${shown}: ${verdict}`;
}

function showFacts() {
  const { query, other } = answer;
  const { kind, mark, words } = verdictOf(other, answer.removed_as);
  const colour = { match: "verdict correct", wrong: "verdict incorrect" }[kind] ?? "verdict";
  byId("facts").replaceChildren(
    factRow("verdict", `${mark} ${words}`, colour),
    factRow("rank", other.rank === null ? "–" : formatNumber(other.rank)),
    factRow("cosine", cosineText(other.cosine)),
    factRow("AP of the query", query.ap === null ? "–" : query.ap.toFixed(4)),
    factRow("first match", query.first_match === null ? "–" : `rank ${formatNumber(query.first_match)}`),
    factRow("query", query.id, "id"),
    factRow("gallery image", other.id, "id"),
  );
  byId("title").textContent = titleOf(query, other);
  byId("rank").textContent = other.rank === null ? "left out" : `rank ${formatNumber(other.rank)}`;
  byId("other-figure").className = kind;
  for (const [side, name] of [["query", "query"], ["other", other.distractor ? "distractor" : "gallery"]]) {
    const image = answer[side];
    byId(`${side}-caption`).replaceChildren(el("strong", {}, `${side === "other" ? `${mark} ` : ""}${image.identity}`),
      el("span", { class: "quiet" }, [name, sourceText(image)].filter(Boolean).join(" · ")),
      ...(image.archived === null ? [el("span", { class: "quiet" }, "its maps are not archived")] : []));
  }
}

/** Links keep the map and the view. */
function followView() {
  const view = { ...state.query(["map", "scale"]), ...viewQuery(state) };
  for (const [id, row] of [["previous", answer.previous], ["next", answer.next]]) {
    if (row === null) byId(id).removeAttribute("href");
    else byId(id).href = pairUrl(where, where.row, row, { ...view, ...state.query(Object.keys(MASK)) });
  }
  byId("back").href = queryUrl(where, where.row, state.query(["map"]));
}

/** Shows the value of the map under the pointer. */
function point(side, event) {
  const frame = byId(side).getBoundingClientRect();
  const { map, box, size } = shownOf(side);
  const x = ((event.clientX - frame.left) / frame.width) * size[1];
  const y = ((event.clientY - frame.top) / frame.height) * size[0];
  const value = map ? valueAt(map, box, x, y) : NaN;
  const name = side === "query" ? "query" : "gallery image";
  byId("pointed").textContent = `${name}, x ${Math.floor(x)}, y ${Math.floor(y)}: ${Number.isNaN(value) ? "no map here" : formatNumber(value)}`;
}

function chooseMap(key) {
  state.set({ map: key });
  draw();
}

const stepMap = (by) => keys.length && chooseMap(keys[(keys.indexOf(currentMap()) + by + keys.length) % keys.length]);
const follow = (id) => byId(id).hasAttribute("href") && byId(id).click();
const name = () => fileName(where.study, `trial${where.number}`, answer.query.id, answer.other.id, currentMap() || "images");
const lines = (side) => (side === "query" ? [`query ${answer.query.identity}`, sourceText(answer.query)] : [`${byId("rank").textContent}: ${answer.other.identity}, cosine ${cosineText(answer.other.cosine)}`, sourceText(answer.other)]);
const png = () => answer && savePng(SIDES.map((side) => ({ canvas: byId(side), lines: lines(side) })), name());

/** The images without their contours, which become lines. */
function svg() {
  const view = viewOf(state);
  const used = scales();
  const panels = SIDES.map((side) => {
    const shown = shownOf(side, Boolean(masked(side)));
    const copy = el("canvas", { width: byId(side).width, height: byId(side).height });
    paint(copy, shown, { ...view, contour: 0 }, { scale: used[side], masked: masked(side) });
    return { canvas: copy, lines: lines(side), contour: view.contour > 0 && shown.map ? contourOn(shown.map, boxOn(copy, shown), levelOf(view, used[side])) : [] };
  });
  saveSvg(panels, name());
}

bindPage();
bindView(state, draw);
byId("map")?.addEventListener("change", (event) => chooseMap(event.target.value));
byId("save-png").addEventListener("click", png);
byId("save-svg").addEventListener("click", () => answer && svg());
for (const side of SIDES) byId(side).addEventListener("pointermove", (event) => answer && point(side, event));
onKeys({ ArrowLeft: () => follow("previous"), ArrowRight: () => follow("next"), "[": () => stepMap(-1), "]": () => stepMap(1), e: png });
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) {
    width = window.innerWidth;
    draw();
  }
});
load();
