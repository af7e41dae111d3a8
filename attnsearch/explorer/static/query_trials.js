// The same query under the trials of a study: its average precision, first match and nearest gallery images in each.

import { factRow } from "./facts.js";
import { bindPage, byId, el, formatNumber, getJson, pageData, pathTo } from "./page.js";
import { RankedTile, pairUrl, queryUrl, shapeGrid, sourceText, thumbnail } from "./ranked.js";

const AT_ONCE = 3;
const TOP = 10;
const where = pageData("where");

function addRow(trial) {
  const values = Object.entries(trial.values).map(([key, value]) => `${where.titles[key]} ${formatNumber(value)}`).join(" · ");
  const link = el("a", {}, `Trial ${trial.number}`);
  const name = el("h2", {}, link, trial.best ? el("span", { class: "badge best" }, "best") : null);
  const facts = el("p", { class: "quiet" }, "…");
  const grid = el("div", { class: "grid ranking small" });
  byId("trials").append(el("section", { class: "panel", "aria-label": `Trial ${trial.number}` }, el("div", { class: "grid-head" }, name, el("span", { class: "quiet" }, values)), facts, grid));
  return { trial, facts, grid, link };
}

async function fill({ trial, facts, grid, link }) {
  const at = { ...where, number: trial.number };
  try {
    const found = await getJson(pathTo("api", "query", where.experiment, where.study, trial.number), { image: where.image, split: where.split, top: TOP });
    const { query } = found;
    const ranked = found.gallery.filter((image) => image.rank !== null);
    const tiles = ranked.map((image) => new RankedTile(at, image, pairUrl(at, query.row, image.row), found.removed_as));
    shapeGrid(grid, [query, ...ranked]);
    grid.replaceChildren(...tiles.map((tile) => tile.element));
    const first = query.first_match === null ? "no match in the gallery" : `first match at rank ${formatNumber(query.first_match)}`;
    facts.replaceChildren(el("strong", {}, `AP ${query.ap === null ? "–" : query.ap.toFixed(4)}`), `, ${first}; ${ranked.filter((image) => image.match).length} of ${query.n_matches} matches among the ${ranked.length} nearest`);
    link.href = queryUrl(at, query.row);
    showQuery(at, query);
  } catch (error) {
    facts.replaceChildren(el("span", { class: "error" }, error.message));
  }
}

/** The query itself, from the first trial that has it. */
function showQuery(at, query) {
  if (byId("query-image").firstChild) return;
  const image = thumbnail(at, query, 256);
  image.alt = `query ${query.id}`;
  byId("query-image").replaceChildren(image);
  const source = sourceText(query);
  byId("facts").replaceChildren(
    factRow("identity", query.identity), ...(source ? [factRow("taken by", source)] : []), factRow("matches", formatNumber(query.n_matches)),
    factRow("split", where.split), factRow("image", query.id, "id"),
  );
}

/** A few trials are asked for at a time, the best ones first. */
async function work(rows) {
  for (let row = rows.shift(); row; row = rows.shift()) await fill(row);
}

bindPage();
const rows = where.trials.map(addRow);
await Promise.all(Array.from({ length: AT_ONCE }, () => work(rows)));
document.body.dataset.ready = "1";
