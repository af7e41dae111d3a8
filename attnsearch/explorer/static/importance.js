// How much each hyperparameter tells the best trials from the others, as bars.

import { el, percent } from "./page.js";

/** found: objective -> hyperparameter -> fraction; `titleOf` names an objective. */
export function drawImportance(box, found, titleOf) {
  const objectives = Object.keys(found).filter((key) => Object.keys(found[key]).length);
  if (!objectives.length) {
    box.replaceChildren(el("p", { class: "quiet" }, "Too few trials are complete to tell which hyperparameters matter."));
    return;
  }
  box.replaceChildren(...objectives.map((key) => el("div", { class: "importance" }, el("h3", {}, titleOf(key)), el("dl", {}, ...barsOf(found[key])))));
}

function barsOf(fractions) {
  return Object.entries(fractions).sort(([, a], [, b]) => b - a).map(([name, fraction]) => {
    const bar = el("span", { class: "share" });
    bar.style.width = `${100 * fraction}%`;
    return el("div", {}, el("dt", { title: name }, name), el("dd", {}, el("span", { class: "share-box" }, bar), percent(fraction)));
  });
}
