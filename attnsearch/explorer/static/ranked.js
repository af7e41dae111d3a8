// Images of a split as they are ranked: thumbnails that load when they are seen, tiles with a frame, a mark and a map.

import { decodeMap, onImage, scalesOf } from "./field.js";
import { el, formatNumber, pathTo, withQuery } from "./page.js";
import { fit, paint } from "./paint.js";

/** The filters of the list of queries, which links to a query keep. */
export const FILTERS = { order: "ap", down: "", verdict: "all", hard: "", identity: "", query_camera: "", gallery_camera: "", camera_of: "hit" };
const TILE_PX = 240;

/** The address of an image file by its row in the split. */
export const splitImageUrl = (where, row, px) =>
  withQuery(pathTo("split-image", where.experiment, where.study, where.number, where.split, row), { px });

/** The address of a page of a query; rows are those of the split. */
export const queryUrl = (where, row, query = {}) =>
  withQuery(pathTo("query", where.experiment, where.study, where.number, row), { split: where.split, ...query });
export const pairUrl = (where, row, other, query = {}) =>
  withQuery(pathTo("pair", where.experiment, where.study, where.number, row, other), { split: where.split, ...query });

export const cosineText = (value) => (value === null ? "–" : value.toFixed(3));
export const sourceText = (image) => (image.camera !== null ? `camera ${image.camera}` : image.group !== null ? `group ${image.group}` : "");

/** A small image that is fetched when it comes into view; a grey box where there is none on this machine. */
export function thumbnail(where, image, px = 256) {
  if (!image.source) return el("span", { class: "thumb missing", title: "neither a small copy nor the data set is on this machine" });
  const [height, width] = image.size ?? [null, null];
  return el("img", { class: "thumb", src: splitImageUrl(where, image.row, px), loading: "lazy", decoding: "async", alt: "", width, height });
}

/** What a gallery image is to its query: {kind, mark, words}. */
export function verdictOf(image, removedAs) {
  if (image.rank === null) return { kind: "removed", mark: "–", words: `left out: ${removedAs}` };
  if (image.match) return { kind: "match", mark: "✓", words: "match" };
  return { kind: "wrong", mark: "✗", words: image.distractor ? "distractor" : "another identity" };
}

/** An image of the split, over which `draw(view, scale)` lays its map, or takes it away where the view hides it. */
export class MappedImage {
  constructor(where, image, px = 256) {
    this.image = image;
    this.px = px;
    this.thumb = thumbnail(where, image, px);
    this.canvas = el("canvas", { "aria-hidden": "true", hidden: true });
    this.map = image.map && image.size ? onImage(decodeMap(image.map), image.size, image.box) : null;
    this.element = el("span", { class: "image" }, this.thumb, this.canvas);
    this.thumb.addEventListener("load", () => this.view && this.draw(this.view, this.scale));
  }

  draw(view, scale) {
    [this.view, this.scale] = [view, scale];
    const hasMap = this.map !== null && view.opacity > 0 && this.thumb.naturalWidth > 0;
    this.canvas.hidden = !hasMap;
    this.thumb.classList.toggle("covered", hasMap);
    if (!hasMap) return;
    fit(this.canvas, this.image.size, this.px, this.px, 1);
    paint(this.canvas, { size: this.image.size, image: this.thumb, ...this.map }, view, { scale });
  }
}

/** A gallery image of a query in a frame that tells what it is to the query. */
export class RankedTile extends MappedImage {
  constructor(where, image, href, removedAs) {
    super(where, image);
    const { kind, mark, words } = verdictOf(image, removedAs);
    const source = sourceText(image);
    const name = `rank ${image.rank ?? "–"}, ${words}: identity ${image.identity}${source ? `, ${source}` : ""}, cosine ${cosineText(image.cosine)}`;
    const colour = { match: "correct", wrong: "incorrect" }[kind] ?? "";
    this.element.append(el("span", { class: "mark", "aria-hidden": "true" }, mark));
    this.element = el(
      "a",
      { class: `tile ranked ${kind}`, href, title: `${words}: ${image.id}`, "aria-label": name, "data-row": image.row },
      this.element,
      el("span", { class: "names" },
        el("span", { class: "true" }, image.rank === null ? "–" : formatNumber(image.rank), el("span", { class: "confidence" }, cosineText(image.cosine))),
        el("span", { class: `verdict ${colour}` }, image.distractor ? "distractor" : image.identity),
        source ? el("span", { class: "quiet" }, source) : null),
    );
  }
}

/** The colour scale of each tile, by the rule of the view; null where a tile has no map. */
export const tileScales = (tiles, view) => scalesOf(tiles.map((tile) => tile.map && tile.map.map), view.scale);

/** Gives the images of a grid the middle one of their shapes, so that tall ones fill tall boxes. */
export function shapeGrid(grid, images) {
  const ratios = images.filter((image) => image.size).map(({ size: [height, width] }) => width / height).sort((a, b) => a - b);
  if (ratios.length) grid.style.setProperty("--shape", String(Math.min(2, Math.max(0.5, ratios[Math.floor(ratios.length / 2)]))));
}
