// One painted image in a grid: canvas, names, verdict.

import { decodeMap, onImage, rangeOf, scaleOf } from "./field.js";
import { el, pathTo, percent, withQuery } from "./page.js";
import { fit, loadImage, paint } from "./paint.js";

/** The address of an image file. */
export const imageFileUrl = (where, row, px) =>
  withQuery(pathTo("picture", where.experiment, where.study, where.number, where.split, row), { px });

/** A tile of the grid; `draw(view)` paints it again. */
export class Tile {
  constructor(image, where, href, { side = 220 } = {}) {
    this.image = image;
    this.canvas = el("canvas", { role: "img", "aria-label": `${image.id}: ${image.true}, predicted ${image.predicted}` });
    fit(this.canvas, image.size, side, side, 1.5);
    this.shown = { size: image.size, box: image.box, image: null, map: null };
    if (image.map) Object.assign(this.shown, onImage(decodeMap(image.map), image.size, image.box));
    this.scale = this.shown.map && scaleOf(rangeOf([this.shown.map]));
    const misplaced = image.correct && image.hit === false;
    this.element = el(
      "a",
      { class: "tile", href, title: image.id, "data-row": image.row },
      el("span", { class: "image" }, this.canvas),
      el("span", { class: "names" },
        el("span", { class: "true" }, image.true),
        el("span", { class: image.correct ? "verdict correct" : "verdict incorrect" },
          `${image.correct ? "✓" : "✗"} ${image.predicted}`, el("span", { class: "confidence" }, percent(image.confidence))),
        misplaced ? el("span", { class: "verdict misplaced" }, "pointing game: miss") : null),
    );
    this.ready = image.source ? loadImage(imageFileUrl(where, image.row, 256)) : Promise.resolve(null);
  }

  async load(view) {
    this.shown.image = await this.ready;
    this.draw(view);
  }

  draw(view) {
    paint(this.canvas, this.shown, view, { scale: this.scale });
  }
}
