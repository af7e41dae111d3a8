// The columns of the table of trials, and which of them are shown.

import { byId, el, formatNumber, formatWithError, hintOf, pathTo, titleOf, withQuery } from "./page.js";
import { shortNames } from "./table.js";

export const titleOfKey = (study, key) => (key.includes("/") ? titleOf(study.about, key) : key);

/** A trial's number, or its value of an objective, a metric or a hyperparameter; of one that runs the best so far. */
export const valueOf = (trial, key) => (key === "trial" ? trial.number : (trial.values[key] ?? trial.metrics[key] ?? trial.params[key] ?? null));

export const isNumeric = (study, key) => study.trials.some((trial) => typeof trial.params[key] === "number");

/** A study whose running trials have what `live` tells of them: epoch, n_epochs, seconds and the best value so far. */
export function withLive(study) {
  const live = new Map(study.live.trials.map((one) => [one.number, one]));
  const merged = (trial) => {
    const one = live.get(trial.number);
    if (!one) return trial;
    const metrics = one.value === null || !study.monitor ? trial.metrics : { ...trial.metrics, [study.monitor]: one.value };
    return { ...trial, metrics, epoch: one.epoch, n_epochs: one.n_epochs, best_epoch: one.best_epoch, seconds: one.seconds };
  };
  return { ...study, trials: study.trials.map(merged) };
}

/** The address of a trial's images, or of its queries. */
export const trialUrl = (study, number, query) => withQuery(pathTo(study.is_retrieval ? "retrieval" : "trial", study.experiment, study.study, number), query);

function trialLink(study, trial, query) {
  const name = `${trial.number}${trial.best ? " ★" : ""}`;
  const hint = study.is_retrieval ? "Queries and ranked galleries of this trial" : "Images and maps of this trial";
  return trial.maps ? el("a", { href: trialUrl(study, trial.number, query), title: hint }, name) : name;
}

function stateBadge(trial) {
  const epochs = trial.state === "running" && trial.n_epochs ? ` ${trial.epoch}/${trial.n_epochs}` : "";
  const hint = trial.error ?? trial.standing ?? (trial.imported_from || (epochs ? `epoch ${trial.epoch} of ${trial.n_epochs}` : null));
  return el("span", { class: `badge ${trial.state}`, title: hint }, trial.imported_from ? `${trial.state}, imported` : `${trial.state}${epochs}`);
}

/** An objective with its standard error; of a trial that runs the best so far, which is not final. */
function objectiveCell(trial, key) {
  const value = trial.values[key];
  if (value !== null && value !== undefined) return formatWithError(value, trial.errors[key]);
  const best = trial.metrics[key];
  return Number.isFinite(best) ? el("span", { class: "quiet", title: `best so far, epoch ${trial.best_epoch}` }, formatNumber(best)) : "–";
}

/** All columns: trial, state, objectives, hyperparameters, scores of maps, chosen ones, minutes. */
export function columnsOf(study, { tick, query, chosen }) {
  const objectives = Object.keys(study.objectives);
  const names = shortNames(study.params);
  const measured = (key) => ({ key, label: titleOfKey(study, key), hint: hintOf(study.about, key), isNumber: true, value: (trial) => trial.metrics[key] ?? null });
  const shown = study.metrics.filter((key) => !objectives.includes(key) && (study.main_scores.includes(key) || chosen.includes(key)));
  return [
    { key: "ticked", label: "", value: () => null, cell: tick },
    { key: "trial", label: "trial", isNumber: true, value: (trial) => trial.number, cell: (trial) => trialLink(study, trial, query) },
    { key: "state", label: "state", value: (trial) => trial.state, cell: stateBadge },
    ...objectives.map((key) => ({ ...measured(key), value: (trial) => trial.values[key] ?? trial.metrics[key] ?? null, cell: (trial) => objectiveCell(trial, key) })),
    ...study.params.map((key, index) => ({ key, label: names[index], isNumber: isNumeric(study, key), value: (trial) => trial.params[key] ?? null })),
    ...shown.map(measured),
    ...(chosen.includes("best_epoch") ? [{ key: "best_epoch", label: "best epoch", isNumber: true, value: (trial) => trial.best_epoch || null }] : []),
    { key: "seconds", label: "minutes", hint: "how long the trial has run", isNumber: true, value: (trial) => (trial.seconds ? trial.seconds / 60 : null) },
  ];
}

/** The chooser of further metrics, by group; `onChange` gets the chosen keys. */
export function drawChooser(study, chosen, onChange) {
  const others = study.metrics.filter((key) => !(key in study.objectives) && !study.main_scores.includes(key));
  const groupOf = (key) => study.about[key.split("/").pop()].group;
  const groups = [["training", ["best_epoch"]], ...[...new Set(others.map(groupOf))].map((group) => [group, others.filter((key) => groupOf(key) === group)])];
  const signature = JSON.stringify(groups);
  if (byId("more-metrics").dataset.groups === signature) return;
  byId("more-metrics").dataset.groups = signature;
  const choice = (key) => {
    const box = el("input", { type: "checkbox", "data-column": key });
    box.checked = chosen.includes(key);
    box.addEventListener("change", () => onChange([...byId("more-metrics").querySelectorAll("input:checked")].map((one) => one.dataset.column)));
    return el("label", { title: hintOf(study.about, key) }, box, key === "best_epoch" ? "best epoch" : titleOfKey(study, key));
  };
  byId("more-metrics").replaceChildren(...groups.map(([group, keys]) => el("fieldset", {}, el("legend", {}, group), ...keys.map(choice))));
  byId("more-count").textContent = `More metrics (${others.length + 1})`;
}
