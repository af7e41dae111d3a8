// A study: how far it is, its trials as charts and as a table, learning curves, the film strip. Reloaded while it runs.

import { Chart, swatch } from "./curves.js";
import { fileName, savePlot } from "./export.js";
import { Film } from "./film.js";
import { bestSoFar, drawHeadline } from "./headline.js";
import { drawImportance } from "./importance.js";
import {
  State, axisOf, bindPage, byId, el, formatWithError, getJson, hintOf, onKeys, pageData, pathTo, percent, showError, withQuery,
} from "./page.js";
import { drawParallel, isBrushed, makeAxis } from "./parallel.js";
import { LINE_COLOURS, lines, scatter } from "./plot.js";
import { drawTable, matchesFilter, sorted } from "./table.js";
import { Tile } from "./tile.js";
import { columnsOf, drawChooser, isNumeric, titleOfKey, trialUrl, valueOf, withLive } from "./trials.js";
import { VIEW, viewOf, viewQuery } from "./view.js";

const [RUNNING_MS, ENDED_MS] = [2000, 10000];
const N_PREVIEW = 8;
const N_ROWS = 100;
const MAX_LINES = LINE_COLOURS.length;
const NONE = "none";
let sent = pageData("values");
let study = withLive(sent);
const objectives = Object.keys(study.objectives);
const state = new State({
  ...VIEW, chart: "scatter", x: objectives[1] ?? "trial", y: objectives[0], logx: "", logy: "", point: "", ticked: [], columns: [], q: "", which: "all",
  sort: "", down: "", curve: study.monitor ?? objectives[0], curve2: "val/loss", logcurve: "", logcurve2: "",
});
const charts = [new Chart(byId("curves")), new Chart(byId("curves2"))];
const film = new Film();
let brushes = {};
let drawnLines = [[], []];
let isAllRows = false;
let curvesTurn = 0; // of the latest request, so that an earlier answer that comes late draws nothing

const title = (key) => titleOfKey(study, key);
const axis = (key) => (key.includes("/") ? axisOf(study.about, key) : key);
const isActive = () => study.live.trials.length > 0 || study.trials.some((trial) => trial.state === "running");
const numeric = () => ["trial", ...new Set([...objectives, ...study.metrics]), ...study.params.filter((key) => isNumeric(study, key))];

/** The trials whose curves are drawn: the ticked ones, at first the best, the selected one and those that run. */
function ticked() {
  const chosen = state.get("ticked");
  if (chosen.length) return chosen.filter((word) => word !== NONE).map(Number);
  const running = study.trials.filter((trial) => trial.state === "running").map((trial) => trial.number);
  const first = [study.live.best ?? bestSoFar(study)?.number, selected()?.number].filter(Number.isInteger);
  return [...new Set([...first, ...running])].slice(0, MAX_LINES);
}

const colourOf = (number) => LINE_COLOURS[ticked().indexOf(number) % LINE_COLOURS.length];

/** The selected trial: the one in the URL, else the best, also of those that run. */
function selected() {
  const number = state.get("point") === "" ? (study.live.best ?? bestSoFar(study)?.number ?? study.trials.find((trial) => trial.state === "running")?.number) : Number(state.get("point"));
  return study.trials.find((trial) => trial.number === number);
}

function checkbox(trial) {
  const box = el("input", { type: "checkbox", "aria-label": `curves of trial ${trial.number}`, "data-tick": trial.number });
  box.checked = ticked().includes(trial.number);
  box.addEventListener("change", () => {
    const rest = ticked().filter((number) => number !== trial.number);
    const chosen = (box.checked ? [...rest, trial.number] : rest).slice(-MAX_LINES).map(String);
    state.set({ ticked: chosen.length ? chosen : [NONE] });
    drawTrials();
    drawCurves();
  });
  return box;
}

const columns = () => columnsOf(study, { tick: checkbox, query: viewQuery(state), chosen: state.get("columns") });

function drawTrials() {
  const [which, all, axes] = [state.get("which"), columns(), Object.keys(brushes).length ? parallelAxes() : []];
  const fitting = study.trials.filter((trial) => (which === "all" || trial.state === which) && matchesFilter(trial, all, state.get("q")) && isBrushed(trial, axes, brushes, valueOf));
  const column = all.find((one) => one.key === state.get("sort"));
  const shown = sorted(fitting, column, state.get("down") === "1").slice(0, isAllRows ? undefined : N_ROWS);
  const focused = document.activeElement?.dataset?.tick;
  drawTable(byId("table"), all, shown, {
    sort: state.get("sort"),
    isDescending: state.get("down") === "1",
    onSort: (key) => {
      state.set({ sort: key, down: state.get("sort") === key && state.get("down") !== "1" ? "1" : "" });
      drawTrials();
    },
    rowClass: (trial) => (trial.best ? "best" : ""),
  });
  if (focused !== undefined) document.querySelector(`[data-tick="${Number(focused)}"]`)?.focus();
  byId("count").textContent = `${fitting.length} of ${study.trials.length} trials${shown.length < fitting.length ? `, the first ${shown.length} are shown` : ""}`;
  byId("all-rows").hidden = shown.length === fitting.length;
  byId("compare").disabled = compared().length < 1;
  byId("compare").textContent = compared().length ? `Compare maps of ${compared().length}` : "Compare maps";
}

const compared = () => ticked().filter((number) => study.trials.some((trial) => trial.number === number && trial.maps));

function openCompare() {
  if (!compared().length) return;
  window.location.href = withQuery(pathTo("compare", study.experiment), { t: compared().map((number) => `${study.study}:${number}`), ...viewQuery(state) });
}

function drawScatter(box) {
  const [xKey, yKey] = [state.get("x"), state.get("y")];
  const number = selected()?.number;
  const points = study.trials
    .filter((trial) => ["complete", "running"].includes(trial.state))
    .map((trial) => ({ x: valueOf(trial, xKey), y: valueOf(trial, yKey), name: `trial ${trial.number}`, key: String(trial.number), isBest: trial.best, isRunning: trial.state === "running", isSelected: trial.number === number }));
  const focused = document.activeElement?.dataset?.key;
  const isFront = objectives.length > 1 && objectives.includes(xKey) && objectives.includes(yKey);
  const names = { xName: title(xKey), yName: title(yKey), xLabel: axis(xKey), yLabel: axis(yKey) };
  scatter(box, points, { ...names, isFront, isLogX: state.get("logx") === "1", isLogY: state.get("logy") === "1", onPick: pick, height: window.innerWidth > 900 ? 330 : 290 });
  if (focused !== undefined) document.querySelector(`.point[data-key="${Number(focused)}"]`)?.focus();
}

const parallelAxes = () => [...study.params, ...objectives, ...study.main_scores.filter((key) => !objectives.includes(key)).slice(0, 2)].map((key) => makeAxis(key, shortTitle(key), study.trials.map((trial) => valueOf(trial, key))));
const shortTitle = (key) => (key.includes("/") ? title(key) : key.split(".").pop());

function drawStrands(box) {
  const known = study.trials.filter((trial) => ["complete", "running", "pruned"].includes(trial.state));
  const onBrush = (changed) => {
    brushes = Object.fromEntries(Object.entries(changed).filter(([, range]) => range));
    drawChart();
    drawTrials();
  };
  drawParallel(box, known, parallelAxes(), { valueOf, brushes, colourKey: objectives[0], selected: String(selected()?.number), onBrush, onPick: pick });
}

async function drawImportances(box) {
  try {
    const found = await getJson(pathTo("api", "importances", study.experiment, study.study));
    if (state.get("chart") === "importance") drawImportance(box, found, title);
  } catch (error) {
    showError(box, error);
  }
}

const CHARTS = {
  scatter: { draw: drawScatter, note: "Filled points are the best trials, dashed ones still run. Select a point to see its maps." },
  parallel: { draw: drawStrands, note: "Drag along an axis to keep a range, click it to clear; the table follows. Yellow lines have the higher objective." },
  importance: { draw: drawImportances, note: "How much of what tells the best trials from the others lies in each hyperparameter. More trials make it surer." },
};

function drawChart() {
  const name = state.get("chart") in CHARTS ? state.get("chart") : "scatter";
  const hasValues = study.trials.some((trial) => objectives.some((key) => valueOf(trial, key) !== null));
  byId("charts").hidden = !hasValues;
  byId("axes").hidden = name !== "scatter";
  document.querySelector(`[name=chart][value=${name}]`).checked = true;
  for (const button of document.querySelectorAll("[data-save=chart]")) button.hidden = name === "importance";
  byId("chart-note").textContent = CHARTS[name].note;
  if (hasValues) CHARTS[name].draw(byId("chart"));
}

function pick(key) {
  state.set({ point: key }, { isStep: true });
  drawChart();
  drawTrials();
  drawCurves();
  showPreview();
  showFilm();
}

async function showPreview() {
  const box = byId("preview");
  const trial = selected();
  byId("maps").hidden = !trial?.maps && state.get("point") === "";
  if (!trial) {
    box.replaceChildren(el("p", { class: "quiet" }, "No trial is selected."));
    return;
  }
  const values = objectives.filter((key) => trial.values[key] !== undefined).map((key) => `${title(key)} ${formatWithError(trial.values[key], trial.errors[key])}`).join(" · ");
  const head = el("p", {}, el("strong", {}, `Trial ${trial.number}`), ` ${values}`);
  if (!trial.maps) {
    const why = trial.state === "running" ? "Its maps are written at its end; its film strip stands below." : "Its maps were removed or are not written yet.";
    box.replaceChildren(head, el("p", { class: "quiet" }, why));
    return;
  }
  try {
    const page = await getJson(pathTo("api", "grid", study.experiment, study.study, trial.number), { spread: N_PREVIEW, role: study.is_retrieval ? "query" : "" });
    if (selected()?.number !== trial.number) return;
    const where = { ...study, number: trial.number, split: page.split };
    const tiles = page.images.map((image) => new Tile(image, where, withQuery(pathTo("image", study.experiment, study.study, trial.number, image.row), { split: page.split, ...viewQuery(state) }), { side: 150 }));
    const more = el("a", { class: "button", href: trialUrl(study, trial.number, viewQuery(state)), id: "open-trial" }, study.is_retrieval ? "All queries" : `All ${page.total} images`);
    const right = percent(page.correct / Math.max(1, page.judged));
    const words = study.is_retrieval ? `first hit is a match in ${right} of ${page.judged} ${page.split} queries with maps` : `${right} of ${page.split} images correct`;
    box.replaceChildren(head, el("div", { class: "grid small" }, ...tiles.map((tile) => tile.element)), el("p", { class: "tools" }, more, el("span", { class: "quiet" }, words)));
    for (const tile of tiles) tile.load(viewOf(state));
  } catch (error) {
    showError(box, error);
  }
}

async function showFilm() {
  const trial = selected();
  if (!trial) return;
  try {
    await film.show({ ...study, number: trial.number }, { bestEpoch: trial.best_epoch, isRunning: trial.state === "running" });
  } catch (error) {
    byId("film").hidden = false;
    showError(byId("frames"), error);
  }
}

/** The lines of one chart: a metric of validation, and that of training, dashed. */
function linesOf(epochs, numbers, key, names) {
  const training = key.startsWith("val/") ? key.replace("val/", "train/") : "";
  const line = (number, name, isDashed) => ({ name: `trial ${number}${isDashed ? ", training" : ""}`, xs: epochs[number].epoch, ys: epochs[number][name] ?? [], colour: colourOf(number), isDashed });
  return numbers.filter((number) => epochs[number]).flatMap((number) => [line(number, key, false), ...(names.includes(training) ? [line(number, training, true)] : [])]);
}

async function drawCurves() {
  const numbers = ticked();
  curvesTurn += 1;
  const turn = curvesTurn;
  try {
    const epochs = numbers.length ? await getJson(pathTo("api", "epochs", study.experiment, study.study), { trials: numbers.join(",") }) : {};
    if (turn !== curvesTurn) return;
    const names = [...new Set(Object.values(epochs).flatMap((one) => Object.keys(one)))].filter((name) => name !== "epoch");
    const known = names.length ? names : [state.get("curve"), state.get("curve2")];
    charts.forEach((chart, index) => {
      const id = ["curve", "curve2"][index];
      const key = [state.get(id), ...(index ? [] : [study.monitor, ...objectives, ...names])].find((name) => known.includes(name));
      fill(byId(id), index ? [NONE, ...known] : known, key ?? NONE);
      byId(["curves", "curves2"][index]).hidden = !key;
      drawnLines[index] = key ? linesOf(epochs, numbers, key, names) : [];
      if (key) chart.show(drawnLines[index], { label: axis(key), isLog: state.get(`log${id}`) === "1" });
    });
    byId("keys-of-lines").replaceChildren(...numbers.map((number) => el("span", { "data-line": number }, swatch(colourOf(number)), `trial ${number}${epochsOf(number, epochs)}`)));
  } catch (error) {
    charts[0].remove();
    showError(byId("curves"), error);
  }
}

/** `, 7 of 20 epochs` of a trial that is not finished. */
function epochsOf(number, epochs) {
  const trial = study.trials.find((one) => one.number === number);
  return trial?.n_epochs ? `, ${epochs[number]?.epoch.length ?? 0} of ${trial.n_epochs} epochs` : "";
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
  if ([...select.options].map((option) => option.value).join("\n") !== names.join("\n")) {
    select.replaceChildren(...names.map((name) => el("option", { value: name, title: hintOf(study.about, name) }, title(name))));
  }
  if (names.includes(shown)) select.value = shown;
  select.title = hintOf(study.about, select.value);
}

/** What changes with each epoch of a trial that runs. */
function drawLive() {
  drawHeadline(study);
  drawChart();
  drawTrials();
  drawCurves();
  showFilm();
}

function drawAll() {
  for (const id of ["x", "y"]) fill(byId(id), numeric(), state.get(id));
  for (const id of ["logx", "logy", "logcurve", "logcurve2"]) byId(id).checked = state.get(id) === "1";
  byId("which").value = state.get("which");
  drawChooser(study, state.get("columns"), (chosen) => {
    state.set({ columns: chosen });
    drawTrials();
  });
  drawLive();
  drawRungs();
  drawSelection();
  showPreview();
}

const stored = ({ live: _, ...rest }) => JSON.stringify(rest);

async function refresh() {
  if (document.visibilityState === "visible") {
    try {
      const latest = await getJson(pathTo("api", "study", study.experiment, study.study));
      const [isStored, isLive] = [stored(latest) !== stored(sent), JSON.stringify(latest.live) !== JSON.stringify(sent.live)];
      sent = latest;
      study = withLive(latest);
      if (isStored) drawAll();
      else if (isLive || isActive()) drawLive();
    } catch {
      // the server has stopped; the page keeps what it shows
    }
  }
  window.setTimeout(refresh, isActive() ? RUNNING_MS : ENDED_MS);
}

function bindControls() {
  byId("filter").value = state.get("q");
  byId("filter").addEventListener("input", (event) => {
    state.set({ q: event.target.value });
    drawTrials();
  });
  for (const [id, redraw] of [["which", drawTrials], ["x", drawChart], ["y", drawChart], ["curve", drawCurves], ["curve2", drawCurves]]) {
    byId(id).addEventListener("change", (event) => {
      state.set({ [id]: event.target.value });
      event.target.title = hintOf(study.about, event.target.value);
      redraw();
    });
  }
  for (const [id, redraw] of [["logx", drawChart], ["logy", drawChart], ["logcurve", drawCurves], ["logcurve2", drawCurves]]) {
    byId(id).addEventListener("change", (event) => {
      state.set({ [id]: event.target.checked ? "1" : "" });
      redraw();
    });
  }
  for (const radio of document.querySelectorAll("[name=chart]")) {
    radio.addEventListener("change", () => {
      state.set({ chart: radio.value });
      drawChart();
    });
  }
  byId("all-rows").addEventListener("click", () => {
    isAllRows = true;
    drawTrials();
  });
  byId("compare").addEventListener("click", openCompare);
  for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", () => saveChart(button.dataset));
}

/** Saves a chart of the trials as it is drawn, and the first learning curves as lines in SVG. */
function saveChart({ save, kind }) {
  const isCurves = save === "curves";
  const box = isCurves ? el("div", { class: "offscreen" }) : byId(save);
  if (isCurves) {
    byId("curves").parentElement.append(box);
    lines(box, drawnLines[0], { yLabel: axis(byId("curve").value) });
  }
  const plot = box.querySelector("svg");
  if (plot) savePlot(plot, fileName(study.experiment, study.study, isCurves ? save : state.get("chart")), kind).finally(() => isCurves && box.remove());
}

bindControls();
onKeys({ "/": () => byId("filter").focus(), x: openCompare });
let width = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth !== width) {
    width = window.innerWidth;
    drawChart();
  }
});
window.addEventListener("popstate", () => {
  state.read();
  drawAll();
});
bindPage();
drawAll();
window.setTimeout(refresh, isActive() ? RUNNING_MS : ENDED_MS);
