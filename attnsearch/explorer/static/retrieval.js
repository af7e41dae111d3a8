// The queries of a trial: thumbnails, average precision, first match and first hit, with filters, order and pages.

import { State, bindPage, byId, el, formatNumber, getJson, onKeys, pageData, pathTo, showError, withQuery } from "./page.js";
import { showPages } from "./pages.js";
import { FILTERS, cosineText, pairUrl, queryUrl, shapeGrid, sourceText, thumbnail, verdictOf } from "./ranked.js";
import { drawTable } from "./table.js";

const where = pageData("where");
const state = new State({ ...FILTERS, split: "", page: "1" });
let lastRequest = 0;
let last = 1;

const filterQuery = () => state.query(Object.keys(FILTERS));

const columns = [
  { key: "image", label: "query", hint: "order by the name of the image", cell: queryCell },
  { key: "ap", label: "AP", hint: "average precision; of a query without a match it is undefined", isNumber: true, value: (query) => query.ap, cell: (query) => number(query.ap) },
  { key: "first_match", label: "first match", hint: "rank of the first match", isNumber: true, value: (query) => query.first_match, cell: (query) => (query.first_match === null ? el("span", { class: "quiet" }, "no match") : formatNumber(query.first_match)) },
  ...(where.has_ranks ? [{ key: "cosine", label: "first hit", hint: "order by the cosine to the first hit", cell: hitCell }] : []),
  { key: "identity", label: "identity", value: (query) => query.identity },
  { key: "identity_ap", label: "identity mAP", hint: "mean average precision of the queries of this identity", isNumber: true, value: (query) => query.identity_ap, cell: (query) => number(query.identity_ap) },
  ...(where.cameras.length ? [{ key: "camera", label: "camera", value: (query) => query.camera }] : []),
];

const number = (value) => (value === null ? "–" : value.toFixed(3));

function queryCell(query) {
  const shown = [el("span", { class: "thumb-box" }, thumbnail(where, query)), el("span", { class: "id" }, query.id.split("/").pop())];
  if (!where.has_ranks) return el("span", { class: "thumb-cell query", title: query.id }, ...shown);
  return el("a", { class: "thumb-cell query", href: queryUrl(where, query.row, filterQuery()), title: query.id, "aria-label": `query ${query.id}` }, ...shown);
}

function hitCell(query) {
  const { hit } = query;
  if (!hit) return el("span", { class: "quiet" }, "nothing is ranked");
  const { kind, mark, words } = verdictOf(hit, where.removed_as);
  return el("a", { class: `thumb-cell ${kind}`, href: pairUrl(where, query.row, hit.row), title: `${words}: ${hit.id}` },
    el("span", { class: "thumb-box" }, thumbnail(where, hit)),
    el("span", {},
      el("span", { class: `verdict ${hit.match ? "correct" : "incorrect"}` }, `${mark} ${hit.identity}`), el("br"),
      el("span", { class: "quiet" }, [cosineText(hit.cosine), sourceText(hit), hit.distractor ? "distractor" : ""].filter(Boolean).join(" · "))));
}

async function load() {
  lastRequest += 1;
  const request = lastRequest;
  try {
    const query = { ...filterQuery(), split: where.split, page: state.get("page") };
    const page = await getJson(pathTo("api", "queries", where.experiment, where.study, where.number), query);
    if (request === lastRequest) show(page);
  } catch (error) {
    if (request !== lastRequest) return;
    showError(byId("count"), error);
    byId("table").replaceChildren();
    byId("pages").replaceChildren();
  }
}

function show(page) {
  shapeGrid(byId("table"), page.queries);
  drawTable(byId("table"), columns, page.queries, { sort: state.get("order"), isDescending: state.get("down") === "1", onSort });
  last = page.pages;
  showPages(byId("pages"), page, turn);
  const part = page.matching === page.total ? `${page.total} queries` : `${page.matching} of ${page.total} queries`;
  const means = page.mean_ap === null ? "" : `, mAP ${number(page.mean_ap)}, rank-1 ${number(page.rank1)}`;
  const without = page.matching - page.valid;
  byId("count").textContent = `${part}${means}${without ? `; ${without} without a match, which no mean counts` : ""}`;
  document.body.dataset.ready = "1";
}

function onSort(key) {
  change({ order: key, down: state.get("order") === key && state.get("down") !== "1" ? "1" : "" });
}

function change(changes) {
  state.set({ ...changes, page: "1" }, { isStep: true });
  showState();
  load();
}

function turn(to) {
  if (to < 1 || to > last) return;
  state.set({ page: String(to) }, { isStep: true });
  load();
  byId("count").scrollIntoView({ block: "start" });
}

/** Puts the state into the controls. */
function showState() {
  for (const id of Object.keys(FILTERS)) {
    const control = byId(id);
    if (control) control.value = state.get(id);
  }
  if (byId("split")) byId("split").value = where.split;
}

function moveTo(by) {
  const links = [...document.querySelectorAll("a.thumb-cell.query")];
  const at = links.indexOf(document.activeElement);
  links[Math.min(links.length - 1, Math.max(0, at + by))]?.focus();
}

bindPage();
if (where.is_listed) {
  for (const id of Object.keys(FILTERS)) byId(id)?.addEventListener("change", (event) => change({ [id]: event.target.value.trim() }));
  byId("reset").addEventListener("click", () => change({ ...FILTERS }));
  byId("split")?.addEventListener("change", (event) => {
    window.location.href = withQuery(window.location.pathname, { split: event.target.value });
  });
  onKeys({
    ArrowUp: () => moveTo(-1), ArrowDown: () => moveTo(1), n: () => turn(state.number("page") + 1), p: () => turn(state.number("page") - 1),
    "/": () => byId("identity").focus(),
  });
  window.addEventListener("popstate", () => {
    state.read();
    showState();
    load();
  });
  showState();
  load();
}
