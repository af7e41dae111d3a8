// The film strip of a trial: its saliency of a few images after each epoch, on one scale that begins at 0.

import { gradient } from "./colours.js";
import { onImage } from "./field.js";
import { byId, el, formatNumber, getJson, pathTo, withQuery } from "./page.js";
import { fit, loadImage, paint, tableName } from "./paint.js";

const [PHOTO_PX, TILE_PX, LARGE_PX] = [40, 56, 170];
const FEW_ROWS = 3;
const FEW_CELLS = 8; // a map with fewer rows or columns is shown cell by cell
const VIEW = { opacity: 0.55, colours: "auto", contour: 0, isUniform: true };

/** The maps of a frame, one for each image: {h, w, values}. */
export function mapsOf(frame) {
  const levels = Uint8Array.from(atob(frame.cells), (letter) => letter.charCodeAt(0));
  const size = frame.h * frame.w;
  return Array.from({ length: levels.length / size }, (_, index) => ({
    h: frame.h, w: frame.w, values: Float32Array.from(levels.subarray(index * size, (index + 1) * size), (level) => (level / 255) * frame.high),
  }));
}

/** The model's view as an image of its own. */
function alone({ box: [left, top, right, bottom] }) {
  const [width, height] = [right - left, bottom - top];
  return { size: [height, width], box: [0, 0, width, height] };
}

export class Film {
  constructor() {
    this.clear("");
    this.scrubber = byId("epoch");
    this.scrubber.addEventListener("input", () => this.go(Number(this.scrubber.value)));
    byId("film-rows").addEventListener("click", () => {
      this.isWhole = !this.isWhole;
      this.draw();
    });
  }

  clear(key) {
    this.key = key;
    this.frames = new Map(); // epoch -> its maps
    this.images = [];
    this.photos = [];
    this.high = 0;
    this.at = null; // the chosen epoch; null follows the last one, or shows the best
    this.isWhole = false;
    this.tiles = [];
  }

  /** Shows a trial, or what has come of it since: {experiment, study, number}, its best epoch and whether it runs. */
  async show(where, { bestEpoch, isRunning }) {
    const key = JSON.stringify([where.experiment, where.study, where.number]);
    const isOther = key !== this.key;
    if (isOther) this.clear(key);
    Object.assign(this, { where, bestEpoch, isRunning });
    if (!isOther && this.isWaiting) return;
    this.isWaiting = true;
    try {
      await this.take(key);
    } finally {
      if (this.key === key) this.isWaiting = false;
    }
  }

  async take(key) {
    const { experiment, study, number } = this.where;
    const found = await getJson(pathTo("api", "film", experiment, study, number), { after: this.last || "" });
    if (this.key !== key) return;
    if (found.images.length && !this.images.length) this.images = found.images;
    if (found.images.length && !this.photos.length) {
      const address = (index) => withQuery(pathTo("film-picture", experiment, study, number, index), { px: 256 });
      this.photos = await Promise.all(this.images.map((image, index) => loadImage(image.source && address(index))));
      if (this.key !== key) return;
    }
    for (const frame of found.frames) this.frames.set(frame.epoch, mapsOf(frame));
    this.high = Math.max(this.high, ...found.frames.map((frame) => frame.high));
    if (found.frames.length || !this.frames.size) this.draw();
  }

  get epochs() {
    return [...this.frames.keys()].sort((a, b) => a - b);
  }

  get last() {
    return this.epochs.at(-1) ?? 0;
  }

  /** The epoch that is shown large. */
  get shownEpoch() {
    if (this.frames.has(this.at)) return this.at;
    return !this.isRunning && this.frames.has(this.bestEpoch) ? this.bestEpoch : this.last;
  }

  /** Shows the frame that is nearest to an epoch. */
  go(epoch) {
    const near = (one) => Math.abs(one - epoch);
    this.at = this.epochs.reduce((best, one) => (near(one) < near(best) ? one : best), this.last);
    this.drawEpoch();
  }

  smoothOf(map) {
    return Math.min(map.h, map.w) >= FEW_CELLS;
  }

  /** The map alone, in the colours of the bar. */
  paintTile(canvas, index, epoch) {
    const map = this.frames.get(epoch)[index];
    const { size, box } = alone(this.images[index]);
    fit(canvas, size, TILE_PX, TILE_PX);
    paint(canvas, { size, box, image: null, map }, { ...VIEW, opacity: 1, smooth: this.smoothOf(map) }, { scale: this.scale });
  }

  /** The map over its photograph. */
  paintLarge(canvas, index, epoch) {
    const image = this.images[index];
    const map = this.frames.get(epoch)[index];
    fit(canvas, image.size, LARGE_PX, LARGE_PX, 1.5);
    paint(canvas, { size: image.size, image: this.photos[index], ...onImage(map, image.size, image.box) }, { ...VIEW, smooth: this.smoothOf(map) }, { scale: this.scale });
  }

  get scale() {
    return { low: 0, high: this.high, isSigned: false };
  }

  draw() {
    byId("film").hidden = !this.frames.size;
    if (!this.frames.size) return;
    byId("film-trial").textContent = `of trial ${this.where.number}`;
    const epochs = this.epochs;
    Object.assign(this.scrubber, { min: epochs[0], max: this.last });
    const map = this.frames.get(this.last)[0];
    byId("film-grid").textContent = `saliency, ${map.h}x${map.w}`;
    byId("film-bar").style.background = gradient(tableName(VIEW, this.scale));
    byId("film-high").textContent = formatNumber(this.high);
    byId("film-rows").hidden = this.images.length <= FEW_ROWS;
    byId("film-rows").textContent = this.isWhole ? `First ${FEW_ROWS} images` : `All ${this.images.length} images`;
    byId("film-rows").setAttribute("aria-expanded", String(this.isWhole));
    this.drawStrip(epochs);
    this.drawEpoch();
  }

  drawStrip(epochs) {
    const box = byId("film-strip").parentElement;
    const isAtEnd = box.scrollLeft + box.clientWidth >= box.scrollWidth - 4;
    const images = this.isWhole ? this.images : this.images.slice(0, FEW_ROWS);
    const head = el("tr", {}, el("th", { scope: "col" }, "epoch"), ...epochs.map((epoch) => el("th", { scope: "col", "data-epoch": epoch }, String(epoch))));
    const rows = images.map((image, index) => el("tr", {}, el("th", { scope: "row", title: image.id }, this.photo(index), image.true), ...epochs.map((epoch) => el("td", { "data-epoch": epoch, onclick: () => this.go(epoch) }, this.tile(index, epoch)))));
    byId("film-strip").replaceChildren(el("thead", {}, head), el("tbody", {}, ...rows));
    if (this.isRunning && isAtEnd) box.scrollLeft = box.scrollWidth;
  }

  /** An image without a map, small. */
  photo(index) {
    const canvas = el("canvas", { "aria-hidden": "true" });
    const { size, box } = this.images[index];
    fit(canvas, size, PHOTO_PX, PHOTO_PX);
    paint(canvas, { size, box, image: this.photos[index], map: null }, VIEW);
    return canvas;
  }

  tile(index, epoch) {
    const canvas = el("canvas", { role: "img", "aria-label": `${this.images[index].true}, epoch ${epoch}` });
    this.paintTile(canvas, index, epoch);
    return canvas;
  }

  /** All images at the epoch of the scrubber. */
  drawEpoch() {
    const epoch = this.shownEpoch;
    this.scrubber.value = epoch;
    this.scrubber.setAttribute("aria-valuetext", `epoch ${epoch} of ${this.last}`);
    byId("epoch-value").textContent = `${epoch} of ${this.last}${epoch === this.bestEpoch ? ", best" : ""}`;
    for (const cell of byId("film-strip").querySelectorAll("[data-epoch]")) cell.classList.toggle("shown", Number(cell.dataset.epoch) === epoch);
    const figures = this.images.map((image, index) => {
      const canvas = el("canvas", { role: "img", "aria-label": `${image.id}, epoch ${epoch}` });
      this.paintLarge(canvas, index, epoch);
      return el("figure", { title: image.id }, canvas, el("figcaption", {}, image.true));
    });
    byId("frames").replaceChildren(...figures);
  }
}
