// Grids of tiles that load their images once they come near the screen.

import { el, pathTo, withQuery } from "./page.js";
import { loadImage } from "./paint.js";
import { Tile, imageFileUrl } from "./tile.js";
import { viewOf, viewQuery } from "./view.js";

/** Tiles of one page; `draw()` paints those that are loaded again. */
export class Tiles {
  constructor(where, state) {
    this.where = where;
    this.state = state;
    this.loaded = new Set();
    this.waiting = new Map();
    this.observer = new IntersectionObserver((entries) => entries.filter((one) => one.isIntersecting).forEach((one) => this.load(one.target)), { rootMargin: "300px" });
  }

  /** A grid of images as the server sends them; `note` is a line below the prediction. */
  grid(images) {
    const { experiment, study, number, split } = this.where;
    const elements = images.map((image) => {
      const href = withQuery(pathTo("image", experiment, study, number, image.row), { split, ...viewQuery(this.state) });
      const tile = new Tile({ ...image, source: null }, this.where, href);
      if (image.note) tile.element.querySelector(".names").append(el("span", { class: "quiet note", title: image.note }, image.note));
      this.waiting.set(tile.element, { tile, image });
      this.observer.observe(tile.element);
      return tile.element;
    });
    return el("div", { class: "grid" }, ...elements);
  }

  load(element) {
    const { tile, image } = this.waiting.get(element);
    this.waiting.delete(element);
    this.observer.unobserve(element);
    if (image.source) tile.ready = loadImage(imageFileUrl(this.where, image.row, 256));
    this.loaded.add(tile);
    tile.load(viewOf(this.state));
  }

  draw() {
    for (const tile of this.loaded) tile.draw(viewOf(this.state));
  }
}
