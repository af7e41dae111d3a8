// The images where a trial fails: lists of them, the most confused pairs, or one list or pair with all of its images.

import { State, bindPage, byId, el, getJson, pageData, pathTo, percent, showError, withQuery } from "./page.js";
import { showPages } from "./pages.js";
import { Tiles } from "./tiles.js";
import { VIEW, bindView, viewQuery } from "./view.js";

const where = pageData("where");
const CHOICES = { kind: "", first: "", second: "", t: [], page: "1" };
const state = new State({ ...VIEW, ...CHOICES, split: "" });
const tiles = new Tiles(where, state);
let label = null;

/** This page with other choices; the view and the compared trials stay. */
const link = (choices) =>
  withQuery(window.location.pathname, { split: where.split, t: state.get("t"), ...viewQuery(state), ...choices });
const classLink = (name) => withQuery(pathTo("classes", where.experiment, where.study, where.number), { class: name, split: where.split });

async function load() {
  try {
    const query = { ...state.query(Object.keys(CHOICES)), split: where.split };
    show(await getJson(pathTo("api", "failures", where.experiment, where.study, where.number), query));
  } catch (error) {
    showError(byId("findings"), error);
  }
  document.body.dataset.ready = "1";
}

function show(found) {
  const right = found.judged ? `, ${percent(1 - found.wrong / found.judged)} correct` : "";
  byId("summary").textContent = `${found.split}: ${found.wrong} of ${found.judged} images are predicted wrongly${right}.`;
  byId("compared").textContent = found.compared.length ? `(${found.compared.join(", ")})` : "(no other trial)";
  for (const box of document.querySelectorAll("#others input")) box.checked = found.compared.includes(box.value);
  byId("others").querySelectorAll(".error").forEach((one) => one.remove());
  byId("others").append(...found.problems.map((text) => el("p", { class: "error" }, text)));
  label = found.map;
  tiles.clear();
  const sections = found.findings.map((finding) => (state.get("kind") ? whole(finding) : part(finding)));
  byId("findings").replaceChildren(...sections, ...(state.get("kind") ? [] : [pairs(found.pairs)]));
  tiles.watch();
  tiles.showLegend(label);
}

const section = (id, title, ...children) =>
  el("section", { class: "panel finding", id: `finding-${id}`, "aria-labelledby": `title-${id}` }, el("h2", { id: `title-${id}` }, title), ...children);

/** The first images of a list, and the link to all. */
function part(finding) {
  const all = finding.total > finding.images.length ? el("p", {}, el("a", { href: link({ kind: finding.kind }) }, `All ${finding.total} images`)) : null;
  const none = finding.total ? null : el("p", { class: "quiet" }, "No such image.");
  return section(finding.kind, `${finding.title} (${finding.total})`, el("p", { class: "quiet" }, finding.text), none, tiles.grid(finding.images), all);
}

/** One page of a list. */
function whole(finding) {
  const turner = el("nav", { class: "pages", "aria-label": "Pages" });
  showPages(turner, finding, (page) => {
    window.location.href = link({ ...state.query(["kind", "first", "second"]), page });
  });
  const back = el("p", {}, el("a", { href: link({}) }, "All failures"));
  return section(finding.kind, `${finding.title} (${finding.total})`, el("p", { class: "quiet" }, finding.text), tiles.grid(finding.images), turner, back);
}

function pairs(found) {
  const none = found.length ? [] : [el("p", { class: "quiet" }, "No class is taken for another one.")];
  return section("pairs", "Most confused pairs", el("p", { class: "quiet" }, "Both directions counted; the rate is that of the images of both classes."), ...none, el("div", { class: "pairs-of-classes" }, ...found.map(pair)));
}

function pair(one) {
  const [first, second] = one.names;
  const all = link({ kind: "pair", first: one.first, second: one.second });
  return el("div", { class: "pair-of-classes" },
    el("h3", {}, el("a", { href: classLink(first) }, first), " and ", el("a", { href: classLink(second) }, second), ": ", el("a", { href: all }, `${one.n} ${one.n === 1 ? "image" : "images"}`)),
    el("p", { class: "quiet" }, `${one.there} of ${first} taken for ${second}, ${one.back} the other way; ${percent(one.rate)}`),
    tiles.grid(one.images));
}

function choose() {
  const chosen = [...document.querySelectorAll("#others input:checked")].map((box) => box.value);
  state.set({ t: chosen, page: "1" }, { isStep: true });
  load();
}

bindPage();
if (byId("findings")) {
  bindView(state, () => {
    tiles.draw();
    tiles.showLegend(label);
  });
  byId("split")?.addEventListener("change", (event) => {
    window.location.href = withQuery(window.location.pathname, { ...state.query(["t"]), ...viewQuery(state), split: event.target.value });
  });
  byId("others").addEventListener("change", choose);
  window.addEventListener("popstate", () => {
    state.read();
    load();
  });
  load();
}
