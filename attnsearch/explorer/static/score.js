// Scores of one archived image that has none yet, measured when a person asks for them.

import { postJson } from "./ask.js";
import { byId, el, pathTo } from "./page.js";

/** Shows a button where an image with maps has no scores; `onScored` is called once the image has them. */
export function offerScores(where, image, onScored) {
  const box = byId("score-now");
  box.hidden = Object.keys(image.scores).length > 0 || !image.maps.saliency || image.correct === null;
  if (box.hidden) return;
  const status = el("p", { class: "quiet", role: "status" }, "This image was not scored. Its saliency can be scored now, by the model of the trial; nothing is stored.");
  const button = el("button", { type: "button", onclick: score }, "Score this image");
  box.replaceChildren(status, button);

  async function score() {
    button.disabled = true;
    status.className = "quiet";
    status.textContent = "Scoring: the model classifies the image with parts of it removed …";
    try {
      const path = pathTo("score", where.experiment, where.study, where.number, where.image);
      Object.assign(image, await postJson(path, { split: where.split }));
      box.replaceChildren(el("p", { class: "quiet" }, "Scored now, and not stored."));
      onScored();
    } catch (error) {
      status.className = "error";
      status.textContent = error.message;
      button.disabled = false;
    }
  }
}
