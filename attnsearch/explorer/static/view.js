// The controls of how maps are painted: opacity, colours, contour, smoothness. Shared by all pages with maps.

import { gradient } from "./colours.js";
import { gridText, isFine } from "./field.js";
import { byId, formatNumber, notify, onKeys } from "./page.js";
import { tableName } from "./paint.js";

export const VIEW = { opacity: "75", colours: "auto", contour: "0", smooth: "1", blend: "strength", scale: "own" };
/** How the scales of maps that are shown together are made; "shares" is of maps divided by their means. */
const SCALES = ["own", "one", "stretch", "shares"];
const COLOURS = ["auto", "viridis", "inferno", "turbo", "RdBu"];

/** The state as `paint` takes it. */
export function viewOf(state) {
  return {
    opacity: Math.min(1, Math.max(0, state.number("opacity") / 100)),
    colours: COLOURS.includes(state.get("colours")) ? state.get("colours") : "auto",
    contour: Math.min(1, Math.max(0, state.number("contour") / 100)),
    smooth: state.get("smooth") === "1",
    isUniform: state.get("blend") === "even",
    scale: SCALES.includes(state.get("scale")) ? state.get("scale") : state.defaults.scale,
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
  byId("scale").addEventListener("change", (event) => change({ scale: event.target.value }));
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
  byId("smooth").checked = view.smooth && !byId("smooth").disabled;
  byId("scale").value = view.scale;
  byId("blend").checked = view.isUniform;
}

/** Says in a legend which map is shown and how fine it is, that of an image or those of several; coarse ones cannot be smooth. */
export function describeMap(box, view, label, maps) {
  const all = [maps].flat().filter(Boolean);
  box.querySelector(".of").textContent = [...new Set(all.map((map) => gridText(label, map)))].join("; ");
  const isCoarse = all.length > 0 && !all.some(isFine);
  byId("smooth").disabled = isCoarse;
  byId("smooth").checked = view.smooth && !isCoarse;
  byId("smooth").parentElement.title = isCoarse ? "Maps below 8x8 are shown as cells: values between them would be invented" : "";
}

/** The colour bar with its limits, those of a scale or of several. */
export function showLegend(box, view, scales) {
  const known = [scales].flat().filter((scale) => scale && scale.high > scale.low);
  box.hidden = false;
  box.querySelector(".bar").style.background = known.length ? gradient(tableName(view, known[0])) : "none";
  box.querySelector(".low").textContent = known.length ? limitText("own minimum", known.map((scale) => scale.low)) : constantText([scales].flat());
  box.querySelector(".high").textContent = known.length ? limitText("own maximum", known.map((scale) => scale.high)) : "";
}

/** One end of a bar: a number, or the range of that end. */
function limitText(word, values) {
  const [low, high] = [Math.min(...values), Math.max(...values)].map(formatNumber);
  return low === high ? low : `${word}, ${low} to ${high}`;
}

function constantText(scales) {
  const scale = scales.find((one) => one && Number.isFinite(one.low));
  return scale ? `constant map: ${formatNumber(scale.low)}` : "";
}
