// One painted image in a grid: canvas, names, verdict; and the words for what is predicted of an image.

import { decodeMap, isFlat, onImage, rangeOf, scaleOf } from "./field.js";
import { el, pathTo, percent, withQuery } from "./page.js";
import { fit, loadImage, paint } from "./paint.js";

/** The address of an image file. */
export const imageFileUrl = (where, row, px) =>
  withQuery(pathTo("picture", where.experiment, where.study, where.number, where.split, row), { px });

const mark = (image) => (image.correct === null ? "–" : image.correct ? "✓" : "✗");

/** What is predicted: a class, or the identity of a query's first hit; for a gallery image only what it is. */
export const predictionText = (image) => (image.role === "gallery" ? "gallery" : `${mark(image)} ${image.predicted}`);

export const verdictClass = (image) => (image.correct === null ? "verdict" : image.correct ? "verdict correct" : "verdict incorrect");

/** The confidence in percent, or the cosine to the first hit. */
export const confidenceText = (image) => (image.confidence === null ? "" : image.role ? image.confidence.toFixed(3) : percent(image.confidence));

/** One line for people who cannot see the image, and under a saved one. */
export function captionOf(image) {
  if (image.role === "gallery") return `${image.true}, gallery`;
  const value = image.confidence === null ? "" : ` ${image.confidence.toFixed(2)}`;
  return image.role ? `${image.true}, first hit ${image.predicted}${value}` : `${image.true}, predicted ${image.predicted}${value}`;
}

/** What is predicted and how surely, where the image itself is named beside it. */
export const shortCaption = (image) => `${predictionText(image)}${image.confidence === null ? "" : ` ${image.confidence.toFixed(2)}`}`;

/** What is predicted with its confidence. */
export const verdictOf = (image) =>
  el("span", { class: verdictClass(image) }, predictionText(image), el("span", { class: "confidence" }, confidenceText(image)));

const FLAT = "flat: the largest value is less than twice the smallest, or the Gini coefficient is below 0.1; the map hardly tells one place from another";

/** The badge of a map that says next to nothing; null for others, and without a map. */
export const flatBadge = (map) => (map && isFlat(map) ? el("span", { class: "badge flat", title: FLAT }, "flat") : null);

/** A tile of the grid, with a line of text or a score {label, value} where one is given; `draw(view)` paints it again. */
export class Tile {
  constructor(image, where, href, { side = 220, note = "", score = null } = {}) {
    this.image = image;
    this.canvas = el("canvas", { role: "img", "aria-label": `${image.id}: ${captionOf(image)}` });
    fit(this.canvas, image.size, side, side, 1.5);
    this.shown = { size: image.size, box: image.box, image: null, map: null };
    if (image.map) Object.assign(this.shown, onImage(decodeMap(image.map), image.size, image.box));
    const misplaced = image.correct && image.hit === false;
    this.element = el(
      "a",
      { class: "tile", href, title: image.id, "data-row": image.row },
      el("span", { class: "image" }, this.canvas),
      el("span", { class: "names" },
        el("span", { class: "true" }, image.true, image.camera ? el("span", { class: "confidence" }, `camera ${image.camera}`) : null),
        verdictOf(image),
        misplaced ? el("span", { class: "verdict misplaced" }, "pointing game: miss") : null,
        note ? el("span", { class: "quiet" }, note) : null,
        score ? el("span", { class: "score quiet", title: score.label }, el("span", {}, score.label), " ", el("span", {}, score.value)) : null,
        flatBadge(this.shown.map)),
    );
    this.ready = image.source ? loadImage(imageFileUrl(where, image.row, 256)) : Promise.resolve(null);
  }

  /** Without a scale the map has its own. */
  async load(view, scale) {
    this.shown.image = await this.ready;
    this.draw(view, scale);
  }

  draw(view, scale = this.shown.map && scaleOf(rangeOf([this.shown.map]), { isStretched: view.scale === "stretch" })) {
    paint(this.canvas, this.shown, view, { scale });
  }
}
