// Lists of facts beside an image.

import { byId, el, formatNumber, hintOf, titleOf } from "./page.js";

/** One line of a list of facts. */
export const factRow = (label, value, kind, hint) => el("div", { title: hint }, el("dt", {}, label), el("dd", { class: kind }, value));

/** The scores of an image in their panel, which is hidden without any. */
export function showScores(image) {
  const scores = Object.entries(image.scores);
  byId("scores").hidden = !scores.length;
  byId("scores-list").replaceChildren(...scores.map(([name, value]) => factRow(titleOf(image.metrics, name), formatNumber(value), null, hintOf(image.metrics, name))));
}
