// Lists of facts beside an image.

import { axisOf, byId, el, formatNumber, hintOf, percent } from "./page.js";

/** One line of a list of facts. */
export const factRow = (label, value, kind, hint) => el("div", { title: hint }, el("dt", {}, label), el("dd", { class: kind }, value));

/** Scores of which a high `masked_score` leaves little: what is measured while cells are removed. */
const REMOVAL = /deletion|insertion|gain/;

/** Why the deletion scores of an image mean little; empty where they mean something. */
export function blankText(image) {
  const value = image.scores.masked_score;
  if (image.role || !(value > image.max_masked_score) || !Object.keys(image.scores).some((name) => REMOVAL.test(name))) return "";
  return `The blank image is still ${percent(value)} ${image.explained}: its deletion scores mean little.`;
}

/** The scores of an image in their panel, which is hidden without any. */
export function showScores(image) {
  const scores = Object.entries(image.scores);
  byId("scores").hidden = !scores.length;
  byId("scores-warning").textContent = blankText(image);
  byId("scores-list").replaceChildren(...scores.map(([name, value]) => factRow(axisOf(image.metrics, name), formatNumber(value), null, hintOf(image.metrics, name))));
}
