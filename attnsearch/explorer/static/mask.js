// Deletion and insertion of one image: the choice of the mask, how many cells it takes, and the curves of the image.

import { curvePlot } from "./curve.js";
import { orderOf } from "./field.js";
import { byId, el, onKeys } from "./page.js";

const MASKS = ["off", "deletion", "insertion"];
/** `share` is the fraction of masked cells in percent, under the name that it has in the URL. */
export const MASK = { mask: "off", share: "20" };

/** The panel of `_mask.html`; `redraw` is called after each change of the state. */
export class MaskPanel {
  constructor(state, redraw) {
    this.state = state;
    this.redraw = redraw;
    byId("fraction").addEventListener("input", (event) => this.take(Number(event.target.value)));
    for (const radio of document.querySelectorAll("input[name=mask]")) radio.addEventListener("change", () => this.choose(radio.value));
    onKeys({
      ",": () => this.take(state.number("share") - 5), ".": () => this.take(state.number("share") + 5),
      m: () => this.choose(MASKS[(MASKS.indexOf(state.get("mask")) + 1) % MASKS.length]),
    });
    this.show();
  }

  /** What `paint` masks, by the settings that the image was scored under; null without a mask. */
  masked(settings) {
    const mask = this.state.get("mask");
    if (!MASKS.includes(mask) || mask === "off") return null;
    const isBlurred = settings.protocol === "br_npa" && mask === "insertion";
    return { fraction: this.state.number("share") / 100, keeps: mask === "insertion", fill: isBlurred ? "blur" : (settings.fill ?? "mean") };
  }

  show() {
    for (const radio of document.querySelectorAll("input[name=mask]")) radio.checked = radio.value === this.state.get("mask");
    byId("fraction").value = this.state.get("share");
  }

  choose(mask) {
    this.state.set({ mask });
    this.show();
    this.redraw();
  }

  take(share) {
    this.state.set({ share: String(Math.min(100, Math.max(0, share))), ...(this.state.get("mask") === "off" ? { mask: "deletion" } : {}) });
    this.show();
    this.redraw();
  }

  /** Draws the curves of an image as the server sends it, and counts the cells of the map that is shown. */
  draw(image, map) {
    const share = this.state.get("share");
    const nCells = map ? Math.round((this.state.number("share") / 100) * orderOf(map).length) : 0;
    const effect = { deletion: "hidden", insertion: "visible" }[this.state.get("mask")];
    byId("fraction-value").textContent = effect ? `${share} %: ${nCells} ${effect}` : `${share} %`;
    if (!Object.keys(image.curves).length) {
      byId("curves").replaceChildren(el("p", { class: "quiet" }, "No curves: this image was not scored. Cells are masked in the order of the map."));
      return;
    }
    curvePlot(byId("curves"), image, {
      fraction: this.state.number("share") / 100, mask: this.state.get("mask"), onFraction: (fraction) => this.take(Math.round(100 * fraction)),
    });
  }
}
