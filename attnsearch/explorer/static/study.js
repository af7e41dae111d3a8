// A study: the Pareto plot, learning curves, and all trials as a table. Reloaded while it runs.

import { fileName, savePlot } from "./export.js";
import {
  State, axisOf, bindPage, byId, el, formatNumber, formatWithError, getJson, hintOf, onKeys, pageData, pathTo, percent, showError, titleOf, withQuery,
} from "./page.js";
import { LINE_COLOURS, lines, scatter } from "./plot.js";
import { drawTable, matchesFilter, shortNames, sorted } from "./table.js";
import { Tile } from "./tile.js";
import { VIEW, viewOf, viewQuery } from "./view.js";

const REFRESH_MS = 5000;
const N_PREVIEW = 8;
const MAX_LINES = LINE_COLOURS.length;
let study = pageData("values");
const objectives = Object.keys(study.objectives);
const state = new State({
  ...VIEW, x: objectives[1] ?? "trial", y: objectives[0], point: "", ticked: [], q: "", which: "all", sort: "", down: "", curve: study.monitor ?? objectives[0],
});
let columns = [];

const numeric = () => ["trial", ...new Set([...objectives, ...study.metrics]), ...study.params.filter((key) => study.trials.some((trial) => typeof trial.params[key] === "number"))];
const valueOf = (trial, key) => (key === "trial" ? trial.number : (trial.values[key] ?? trial.metrics[key] ?? trial.params[key] ?? null));
const ticked = () => state.get("ticked").map(Number);
const colourOf = (number) => LINE_COLOURS[ticked().indexOf(number) % LINE_COLOURS.length];

const title = (key) => (key.includes("/") ? titleOf(study.about, key) : key);
const axis = (key) => (key.includes("/") ? axisOf(study.about, key) : key);
const metricColumn = (key) => ({ key, label: title(key), hint: hintOf(study.about, key), isNumber: true });

function makeColumns() {
  const names = shortNames(study.params);
  const others = study.metrics.filter((key) => !objectives.includes(key));
  columns = [
    { key: "ticked", label: "", value: () => null, cell: checkbox },
    { key: "trial", label: "trial", isNumber: true, value: (trial) => trial.number, cell: trialLink },
    { key: "state", label: "state", value: (trial) => trial.state, cell: (trial) => el("span", { class: `badge ${trial.state}`, title: trial.error ?? trial.standing ?? trial.imported_from }, trial.imported_from ? `${trial.state}, imported` : trial.state) },
    ...objectives.map((key) => ({ ...metricColumn(key), value: (trial) => trial.values[key] ?? null, cell: (trial) => withError(trial, key) })),
    ...others.map((key) => ({ ...metricColumn(key), value: (trial) => trial.metrics[key] ?? null })),
    ...study.params.map((key, index) => ({ key, label: names[index], isNumber: study.trials.some((trial) => typeof trial.params[key] === "number"), value: (trial) => trial.params[key] ?? null })),
    { key: "best_epoch", label: "best epoch", isNumber: true, value: (trial) => trial.best_epoch || null },
    { key: "seconds", label: "minutes", isNumber: true, value: (trial) => (trial.seconds ? trial.seconds / 60 : null) },
  ];
}

/** An objective with its standard error, if it is a score of maps. */
const withError = (trial, key) => formatWithError(trial.values[key], trial.errors[key]);

function checkbox(trial) {
  const box = el("input", { type: "checkbox", "aria-label": `curves of trial ${trial.number}`, "data-tick": trial.number });
  box.checked = ticked().includes(trial.number);
  box.addEventListener("change", () => {
    const rest = ticked().filter((number) => number !== trial.number);
    state.set({ ticked: (box.checked ? [...rest, trial.number] : rest).slice(-MAX_LINES).map(String) });
    drawTrials();
    drawCurves();
  });
  return box;
}

function trialLink(trial) {
  const name = `${trial.number}${trial.best ? " ★" : ""}`;
  return trial.maps ? el("a", { href: trialUrl(trial.number), title: study.is_retrieval ? "Queries and ranked galleries of this trial" : "Images and maps of this trial" }, name) : name;
}

const trialUrl = (number) => withQuery(pathTo(study.is_retrieval ? "retrieval" : "trial", study.experiment, study.study, number), viewQuery(state));

function drawTrials() {
  const which = state.get("which");
  const fitting = study.trials.filter((trial) => (which === "all" || trial.state === which) && matchesFilter(trial, columns, state.get("q")));
  const column = columns.find((one) => one.key === state.get("sort"));
  const focused = document.activeElement?.dataset?.tick;
  drawTable(byId("table"), columns, sorted(fitting, column, state.get("down") === "1"), {
    sort: state.get("sort"),
    isDescending: state.get("down") === "1",
    onSort: (key) => {
      state.set({ sort: key, down: state.get("sort") === key && state.get("down") !== "1" ? "1" : "" });
      drawTrials();
    },
    rowClass: (trial) => (trial.best ? "best" : ""),
  });
  if (focused !== undefined) document.querySelector(`[data-tick="${Number(focused)}"]`)?.focus();
  byId("count").textContent = `${fitting.length} of ${study.trials.length} trials`;
  byId("compare").disabled = compared().length < 1;
  byId("compare").textContent = compared().length ? `Compare maps of ${compared().length}` : "Compare maps";
}

const compared = () => ticked().filter((number) => study.trials.some((trial) => trial.number === number && trial.maps));

function openCompare() {
  if (!compared().length) return;
  window.location.href = withQuery(pathTo("compare", study.experiment), { t: compared().map((number) => `${study.study}:${number}`), ...viewQuery(state) });
}

function drawPareto() {
  const [xKey, yKey] = [state.get("x"), state.get("y")];
  const points = study.trials
    .filter((trial) => trial.state === "complete")
    .map((trial) => ({ x: valueOf(trial, xKey), y: valueOf(trial, yKey), name: `trial ${trial.number}`, key: String(trial.number), isBest: trial.best, isSelected: String(trial.number) === state.get("point") }));
  const focused = document.activeElement?.dataset?.key;
  const isFront = objectives.length > 1 && objectives.includes(xKey) && objectives.includes(yKey);
  scatter(byId("pareto"), points, { xName: title(xKey), yName: title(yKey), xLabel: axis(xKey), yLabel: axis(yKey), isFront, onPick: pick, height: window.innerWidth > 900 ? 360 : 290 });
  if (focused !== undefined) document.querySelector(`.point[data-key="${Number(focused)}"]`)?.focus();
}

function pick(key) {
  state.set({ point: key }, { isStep: true });
  drawPareto();
  showPreview();
}

async function showPreview() {
  const box = byId("preview");
  const trial = study.trials.find((one) => String(one.number) === state.get("point"));
  if (!trial) {
    box.replaceChildren(el("p", { class: "quiet" }, "No trial is selected."));
    return;
  }
  const values = objectives.map((key) => `${title(key)} ${withError(trial, key)}`).join(" · ");
  const head = el("p", {}, el("strong", {}, `Trial ${trial.number}`), ` ${values}`);
  if (!trial.maps) {
    box.replaceChildren(head, el("p", { class: "quiet" }, "Its maps were removed or are not written yet."));
    return;
  }
  try {
    const page = await getJson(pathTo("api", "grid", study.experiment, study.study, trial.number), { spread: N_PREVIEW, role: study.is_retrieval ? "query" : "" });
    if (state.get("point") !== String(trial.number)) return;
    const where = { ...study, number: trial.number, split: page.split };
    const tiles = page.images.map((image) => new Tile(image, where, withQuery(pathTo("image", study.experiment, study.study, trial.number, image.row), { split: page.split, ...viewQuery(state) }), { side: 150 }));
    const more = el("a", { class: "button", href: trialUrl(trial.number), id: "open-trial" }, study.is_retrieval ? "All queries" : `All ${page.total} images`);
    const right = percent(page.correct / Math.max(1, page.judged));
    const words = study.is_retrieval ? `first hit is a match in ${right} of ${page.judged} ${page.split} queries with maps` : `${right} of ${page.split} images correct`;
    box.replaceChildren(head, el("div", { class: "grid small" }, ...tiles.map((tile) => tile.element)), el("p", { class: "tools" }, more, el("span", { class: "quiet" }, words)));
    for (const tile of tiles) tile.load(viewOf(state));
  } catch (error) {
    showError(box, error);
  }
}

async function drawCurves() {
  const shown = ticked().length ? ticked() : study.best.slice(0, MAX_LINES);
  const colour = (number) => (ticked().length ? colourOf(number) : LINE_COLOURS[shown.indexOf(number) % LINE_COLOURS.length]);
  if (!shown.length) {
    byId("curves").replaceChildren(el("p", { class: "quiet" }, "Tick trials in the table to see their curves."));
    return;
  }
  try {
    const epochs = await getJson(pathTo("api", "epochs", study.experiment, study.study), { trials: shown.join(",") });
    const names = [...new Set(Object.values(epochs).flatMap((columns_) => Object.keys(columns_)))].filter((name) => name !== "epoch");
    const key = [state.get("curve"), study.monitor, ...objectives, ...names].find((name) => names.includes(name));
    fill(byId("curve"), names, key);
    const [, metric] = key?.split("/") ?? [];
    const trainingKey = key?.startsWith("val/") && names.includes(`train/${metric}`) ? `train/${metric}` : null;
    const series = shown.filter((number) => epochs[number]).flatMap((number) => [
      { name: `trial ${number}`, xs: epochs[number].epoch, ys: epochs[number][key] ?? [], colour: colour(number) },
      ...(trainingKey ? [{ name: `trial ${number}, training`, xs: epochs[number].epoch, ys: epochs[number][trainingKey] ?? [], colour: colour(number), isDashed: true }] : []),
    ]);
    lines(byId("curves"), series, { yLabel: key ? axis(key) : "" });
    byId("keys-of-lines").replaceChildren(
      ...shown.map((number) => {
        const swatch = el("span", { class: "swatch" });
        swatch.style.background = colour(number);
        return el("span", {}, swatch, `trial ${number}`);
      }),
      ...(trainingKey ? [el("span", { class: "quiet" }, "dashed: training")] : []),
    );
  } catch (error) {
    showError(byId("curves"), error);
  }
}

/** What the choice of the best trials flatters, and what the search reached after each complete trial. */
async function drawSelection() {
  try {
    const selection = await getJson(pathTo("api", "selection", study.experiment, study.study));
    byId("selection").hidden = !selection.lines.length;
    byId("selection-lines").replaceChildren(...selection.lines.map((line) => el("li", {}, `${line}.`)));
    const values = selection.history?.values ?? [];
    byId("history").hidden = values.length < 2;
    if (values.length < 2) return;
    const measure = selection.history.measure;
    const yLabel = measure.includes("/") ? `best ${axis(measure)}` : measure;
    lines(byId("history"), [{ name: yLabel, xs: values.map((_, index) => index + 1), ys: values, colour: LINE_COLOURS[0] }], { yLabel, counted: "complete trial", height: 220 });
  } catch (error) {
    showError(byId("selection-lines"), error);
  }
}

/** How many trials of each bracket have reached each rung, and how many of them continue. */
function drawRungs() {
  byId("halving").hidden = !study.brackets.length;
  const row = (bracket, name, epoch, done, all) => el("tr", {}, el("td", {}, String(bracket.number)), el("td", {}, name), ...[epoch, done, all].map((text) => el("td", { class: "number" }, text)));
  const rows = study.brackets.flatMap((bracket) => [
    row(bracket, "started", "", `${bracket.n_started} of ${bracket.n_trials}`, ""),
    ...bracket.rungs.map((rung, index) => row(bracket, String(index + 1), String(rung.epoch), `${rung.n_in} of ${rung.n_expected}`, `${rung.n_decided} of ${rung.n_continue}`)),
    row(bracket, "complete", "", `${bracket.n_complete} of ${bracket.n_finish}`, ""),
  ]);
  const heads = ["bracket", "rung", "epoch", "in", "continue"].map((name, index) => el("th", { scope: "col", class: index > 1 ? "number" : null }, name));
  byId("rungs").replaceChildren(el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...rows));
}

function fill(select, names, shown) {
  if ([...select.options].map((option) => option.value).join("\n") === names.join("\n")) return;
  select.replaceChildren(...names.map((name) => el("option", { value: name }, title(name))));
  if (names.includes(shown)) select.value = shown;
}

function drawState() {
  const [nRunning, nPaused] = ["running", "paused"].map((name) => study.trials.filter((trial) => trial.state === name).length);
  const words = [nRunning ? `${nRunning} running` : `${study.trials.length} trials`, ...(nPaused ? [`${nPaused} paused`] : [])];
  byId("state").textContent = words.join(", ");
  byId("state").classList.toggle("running", nRunning > 0);
}

function drawAll() {
  makeColumns();
  fill(byId("x"), numeric(), state.get("x"));
  fill(byId("y"), numeric(), state.get("y"));
  drawState();
  drawPareto();
  drawRungs();
  drawTrials();
  drawCurves();
  drawSelection();
}

async function refresh() {
  if (document.visibilityState === "visible") {
    try {
      const latest = await getJson(pathTo("api", "study", study.experiment, study.study));
      if (JSON.stringify(latest) !== JSON.stringify(study)) {
        study = latest;
        drawAll();
      }
    } catch {
      // the server has stopped; the page keeps what it shows
    }
  }
  window.setTimeout(refresh, REFRESH_MS);
}

byId("filter").value = state.get("q");
byId("which").value = state.get("which");
byId("filter").addEventListener("input", (event) => {
  state.set({ q: event.target.value });
  drawTrials();
});
for (const [id, redraw] of [["which", drawTrials], ["x", drawPareto], ["y", drawPareto], ["curve", drawCurves]]) {
  byId(id).addEventListener("change", (event) => {
    state.set({ [id]: event.target.value });
    redraw();
  });
}
byId("compare").addEventListener("click", openCompare);
for (const button of document.querySelectorAll("[data-save]")) {
  button.addEventListener("click", () => {
    const plot = byId(button.dataset.save).querySelector("svg");
    if (plot) savePlot(plot, fileName(study.experiment, study.study, button.dataset.save), button.dataset.kind);
  });
}
onKeys({ "/": () => byId("filter").focus(), x: openCompare });
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) {
    width = window.innerWidth;
    drawPareto();
    drawCurves();
  }
});
window.addEventListener("popstate", () => {
  state.read();
  drawAll();
  showPreview();
});
bindPage();
drawAll();
showPreview();
window.setTimeout(refresh, REFRESH_MS);
