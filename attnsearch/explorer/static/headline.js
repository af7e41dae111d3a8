// The first lines of a study: how far it is, how good its best trial is, what was trained on what.

import { byId, el, formatNumber, hintOf } from "./page.js";

const DAY = /T.*/;

/** `40 s`, `12 min`, `3.5 h`. */
export function durationOf(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${formatNumber(Number((seconds / 3600).toPrecision(2)))} h`;
}

/** The best value so far of the metric that epochs are chosen by, over trials that run as well: {value, number, epoch}. */
export function bestSoFar(study) {
  const key = study.monitor ?? Object.keys(study.objectives)[0];
  const sign = study.about[key?.split("/").pop()]?.better === "minimize" ? -1 : 1;
  const found = study.trials
    .filter((trial) => Number.isFinite(trial.metrics[key] ?? trial.values[key]))
    .map((trial) => ({ key, value: trial.metrics[key] ?? trial.values[key], number: trial.number, epoch: trial.best_epoch }));
  return found.reduce((best, one) => (best === null || sign * one.value > sign * best.value ? one : best), null);
}

/** `2 running | 1 of 4 done | best val/accuracy 0.972 (trial 1, epoch 7) | about 40 s left`. */
export function headlineOf(study) {
  const count = (state) => study.trials.filter((trial) => trial.state === state).length;
  const best = bestSoFar(study);
  const { n_done: nDone, n_trials: nTrials, seconds_left: left } = study.live;
  return [
    ...["running", "paused"].filter(count).map((state) => `${count(state)} ${state}`),
    `${nDone} of ${nTrials} done`,
    ...(best ? [`best ${best.key} ${Number(best.value.toPrecision(3))} (trial ${best.number}${best.epoch ? `, epoch ${best.epoch}` : ""})`] : []),
    ...(left === null ? [] : [`about ${durationOf(left)} left`]),
  ].join(" | ");
}

const fact = (name, value, hint) => el("div", { title: hint }, el("dt", {}, name), el("dd", {}, value));

function factsOf({ facts, live, about }) {
  const { model, data, from, to } = facts;
  const days = from && to ? [...new Set([from.replace(DAY, ""), to.replace(DAY, "")])].join(" to ") : "";
  const of = live.quality.map((one) => fact(one.name, one.text, `${hintOf(about, `val/${one.metric}`)}. Value of trial ${live.best} on validation with its interval; then what is reached without information.`));
  const isScored = live.best === null || live.quality.some((one) => one.metric.includes("gain"));
  return [
    model && fact("model", model), data && fact("data", data), days && fact("dates", days, `${from} to ${to}, UTC`),
    ...of, !isScored && fact("faithfulness", "not scored", `The maps of trial ${live.best} have no scores; \`attnsearch faithfulness\` writes them.`),
  ].filter(Boolean);
}

export function drawHeadline(study) {
  document.title = `${study.live.state === "running" ? `${study.live.n_done}/${study.live.n_trials} ` : ""}${study.study} · attnsearch`;
  byId("state").textContent = study.live.state;
  byId("state").classList.toggle("running", study.live.state === "running");
  byId("headline").textContent = headlineOf(study);
  byId("facts").replaceChildren(...factsOf(study));
}
