// The controls of how maps are painted: opacity, colours, contour, smoothness. Shared by all pages with maps.

import { gradient } from "./colours.js";
import { byId, formatNumber, notify, onKeys } from "./page.js";
import { tableName } from "./paint.js";

export const VIEW = { opacity: "75", colours: "auto", contour: "0", smooth: "1", blend: "strength" };
const COLOURS = ["auto", "viridis", "inferno", "turbo", "RdBu"];

/** The state as `paint` takes it. */
export function viewOf(state) {
  return {
    opacity: Math.min(1, Math.max(0, state.number("opacity") / 100)),
    colours: COLOURS.includes(state.get("colours")) ? state.get("colours") : "auto",
    contour: Math.min(1, Math.max(0, state.number("contour") / 100)),
    smooth: state.get("smooth") === "1",
    isUniform: state.get("blend") === "even",
  };
}

/** The query of the view for links to other pages. */
export const viewQuery = (state) => state.query(Object.keys(VIEW));

/** Binds the controls and their keys; `redraw` is called after each change. */
export function bindView(state, redraw) {
  let isWaiting = false;
  const change = (changes) => {
    state.set(changes);
    showView(state);
    if (!isWaiting) {
      isWaiting = true;
      window.requestAnimationFrame(() => {
        isWaiting = false;
        redraw();
      });
    }
  };
  byId("opacity").addEventListener("input", (event) => change({ opacity: event.target.value }));
  byId("contour").addEventListener("input", (event) => change({ contour: event.target.value }));
  byId("colours").addEventListener("change", (event) => change({ colours: event.target.value }));
  byId("smooth").addEventListener("change", (event) => change({ smooth: event.target.checked ? "1" : "0" }));
  byId("blend").addEventListener("change", (event) => change({ blend: event.target.checked ? "even" : "strength" }));
  const step = (key, by) => change({ [key]: String(Math.min(100, Math.max(0, state.number(key) + by))) });
  onKeys({
    "-": () => step("opacity", -5),
    "+": () => step("opacity", 5),
    "=": () => step("opacity", 5),
    c: () => change({ colours: COLOURS[(COLOURS.indexOf(state.get("colours")) + 1) % COLOURS.length] }),
    l: () => change({ contour: state.number("contour") > 0 ? "0" : "50" }),
    "<": () => step("contour", -5),
    ">": () => step("contour", 5),
    s: () => change({ smooth: state.get("smooth") === "1" ? "0" : "1" }),
    v: () => {
      change({ opacity: state.number("opacity") > 0 ? "0" : VIEW.opacity });
      notify(state.number("opacity") > 0 ? "Map shown" : "Map hidden");
    },
  });
  showView(state);
}

/** Puts the state into the controls. */
export function showView(state) {
  const view = viewOf(state);
  byId("opacity").value = state.get("opacity");
  byId("opacity-value").textContent = `${Math.round(100 * view.opacity)} %`;
  byId("contour").value = state.get("contour");
  byId("contour-value").textContent = view.contour > 0 ? `at ${Math.round(100 * view.contour)} %` : "off";
  byId("colours").value = view.colours;
  byId("smooth").checked = view.smooth;
  byId("blend").checked = view.isUniform;
}

/** The colour bar with its limits. */
export function showLegend(box, view, scale) {
  if (!scale || !(scale.high > scale.low)) {
    box.hidden = false;
    box.querySelector(".bar").style.background = "none";
    box.querySelector(".low").textContent = scale && Number.isFinite(scale.low) ? `constant map: ${formatNumber(scale.low)}` : "";
    box.querySelector(".high").textContent = "";
    return;
  }
  box.hidden = false;
  box.querySelector(".bar").style.background = gradient(tableName(view, scale));
  box.querySelector(".low").textContent = formatNumber(scale.low);
  box.querySelector(".high").textContent = formatNumber(scale.high);
}
