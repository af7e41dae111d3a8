// Grids of tiles that load their images once they come near the screen.

import { scalesOf } from "./field.js";
import { byId, el, pathTo, withQuery } from "./page.js";
import { loadImage } from "./paint.js";
import { Tile, imageFileUrl } from "./tile.js";
import { describeMap, showLegend, viewOf, viewQuery } from "./view.js";

/** All tiles of a page, in one or several grids. */
export class Tiles {
  constructor(where, state) {
    this.where = where;
    this.state = state;
    this.scales = new Map();
    this.loaded = new Set();
    this.waiting = new Map();
    this.observer = new IntersectionObserver((entries) => entries.filter((one) => one.isIntersecting).forEach((one) => this.load(one.target)), { rootMargin: "300px" });
  }

  /** Forgets all tiles, before others are shown. */
  clear() {
    this.observer.disconnect();
    for (const known of [this.scales, this.loaded, this.waiting]) known.clear();
  }

  /** A grid of images as the server sends them; `note` is a line below the prediction. */
  grid(images) {
    const { experiment, study, number, split } = this.where;
    const elements = images.map((image) => {
      const href = withQuery(pathTo("image", experiment, study, number, image.row), { split, ...viewQuery(this.state) });
      const tile = new Tile({ ...image, source: null }, this.where, href, { note: image.note });
      this.scales.set(tile, null);
      this.waiting.set(tile.element, { tile, image });
      return tile.element;
    });
    return el("div", { class: "grid" }, ...elements);
  }

  /** Begins to load the tiles that are near the screen; called once their grids are in the page. */
  watch() {
    this.scale();
    for (const element of this.waiting.keys()) this.observer.observe(element);
  }

  load(element) {
    const { tile, image } = this.waiting.get(element);
    this.waiting.delete(element);
    this.observer.unobserve(element);
    if (image.source) tile.ready = loadImage(imageFileUrl(this.where, image.row, 256));
    this.loaded.add(tile);
    tile.load(viewOf(this.state), this.scales.get(tile));
  }

  scale() {
    const tiles = [...this.scales.keys()];
    const scales = scalesOf(tiles.map((tile) => tile.shown.map), viewOf(this.state).scale);
    tiles.forEach((tile, index) => this.scales.set(tile, scales[index]));
  }

  /** Paints what is loaded again. */
  draw() {
    this.scale();
    for (const tile of this.loaded) tile.draw(viewOf(this.state), this.scales.get(tile));
  }

  /** Says in the legend of the page what map the tiles show, and on which scale. */
  showLegend(label) {
    const shown = [...this.scales.keys()].filter((tile) => tile.image.map);
    byId("legend").hidden = !shown.length;
    if (!shown.length) return;
    describeMap(byId("legend"), viewOf(this.state), label, shown[0].image.map);
    showLegend(byId("legend"), viewOf(this.state), [...this.scales.values()]);
    byId("legend").hidden = false;
  }
}
