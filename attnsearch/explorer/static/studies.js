// The list of studies: sorting, filter, reloaded while studies run.

import { State, bindPage, byId, el, formatNumber, formatWithError, onKeys, pageData, pathTo, withQuery } from "./page.js";
import { drawTable, matchesFilter, sorted } from "./table.js";

const REFRESH_MS = 10000;
const state = new State({ sort: "", down: "", q: "" });
let studies = pageData("studies");

/** A value whose tooltip has its interval, its test value and its floors. */
function withText(quality) {
  return quality ? el("span", { title: `${quality.name} ${quality.text}` }, formatNumber(quality.value)) : "–";
}

const columns = [
  { key: "study", label: "study", value: (row) => row.study, cell: (row) => el("a", { href: pathTo("study", row.experiment, row.study) }, row.study) },
  { key: "experiment", label: "experiment", value: (row) => row.experiment },
  { key: "trials", label: "trials", isNumber: true, value: (row) => row.n_trials ?? null, cell: (row) => (row.is_run ? "one run" : formatNumber(row.n_trials)) },
  { key: "running", label: "running", isNumber: true, value: (row) => row.n_running ?? null, cell: (row) => row.n_running ? el("span", { class: "badge running" }, String(row.n_running)) : "–" },
  { key: "paused", label: "paused", isNumber: true, value: (row) => row.n_paused ?? null, cell: (row) => formatNumber(row.n_paused || null) },
  { key: "failed", label: "failed", isNumber: true, value: (row) => row.n_failed ?? null, cell: (row) => formatNumber(row.n_failed || null) },
  { key: "best", label: "best value", isNumber: true, value: (row) => row.values?.[0] ?? null, cell: (row) => formatWithError(row.values?.[0], row.errors?.[row.objectives?.[0]]) },
  { key: "answer", label: "accuracy or mAP", isNumber: true, value: (row) => row.answer?.value ?? null, cell: (row) => withText(row.answer) },
  { key: "gain", label: "relevance gain", isNumber: true, value: (row) => row.faithfulness?.value ?? null, cell: (row) => row.best === null || row.error ? "–" : row.faithfulness ? withText(row.faithfulness) : "not scored" },
  { key: "floor", label: "its floor", isNumber: true, value: (row) => row.faithfulness?.floor ?? null, cell: (row) => formatNumber(row.faithfulness?.floor) },
  { key: "objective", label: "objective", value: (row) => (row.objectives ?? []).join(", "), cell: (row) => row.error ? el("span", { class: "error" }, row.error) : row.titles.join(", ") },
  { key: "maps", label: "", value: () => null, cell: (row) => row.best === null || row.error ? "" : el("a", { href: pathTo("trial", row.experiment, row.study, row.best) }, `maps of trial ${row.best}`) },
];

function draw() {
  const shown = studies.filter((row) => matchesFilter(row, columns, state.get("q")));
  const column = columns.find((one) => one.key === state.get("sort"));
  drawTable(byId("table"), columns, sorted(shown, column, state.get("down") === "1"), {
    sort: state.get("sort"),
    isDescending: state.get("down") === "1",
    onSort: (key) => {
      state.set({ sort: key, down: state.get("sort") === key && state.get("down") !== "1" ? "1" : "" });
      draw();
    },
  });
  byId("none").hidden = shown.length > 0;
}

async function refresh() {
  if (document.visibilityState === "visible" && !document.querySelector("a:focus")) {
    try {
      const answer = await fetch(withQuery(window.location.pathname, {}));
      const text = await answer.text();
      studies = JSON.parse(new DOMParser().parseFromString(text, "text/html").getElementById("studies").textContent);
      draw();
    } catch {
      // the server has stopped; the page keeps what it shows
    }
  }
  window.setTimeout(refresh, REFRESH_MS);
}

byId("filter").value = state.get("q");
byId("filter").addEventListener("input", (event) => {
  state.set({ q: event.target.value });
  draw();
});
onKeys({ "/": () => byId("filter").focus() });
bindPage();
draw();
window.setTimeout(refresh, REFRESH_MS);
