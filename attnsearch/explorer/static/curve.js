// Deletion and insertion curves of one image, with a handle that can be dragged.

import { el, formatNumber } from "./page.js";
import { LINE_COLOURS } from "./plot.js";

const [WIDTH, HEIGHT] = [300, 170];
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 8, 8, 26];
const DASHED = { random: "4 4", ap: "2 3" };
const OF_RANKING = "ap_";

/** Draws the curves of an image; `onFraction` gets the fraction of cells under the pointer, in [0, 1]. */
export function curvePlot(box, image, { fraction, mask, onFraction }) {
  const x = (value) => LEFT + value * (WIDTH - LEFT - RIGHT);
  const values = Object.values(image.curves).flat().filter(Number.isFinite);
  const [yMin, yMax] = [Math.min(0, ...values), Math.max(1, ...values)]; // a cosine may be negative
  const y = (value) => TOP + ((yMax - value) / (yMax - yMin)) * (HEIGHT - TOP - BOTTOM);
  const label = `${image.curve_of} while cells are removed or inserted: ${Object.keys(image.curves).join(", ")}`;
  const svg = el("svg:svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot curve", role: "img", "aria-label": label });
  for (const value of [0, 0.5, 1]) {
    svg.append(
      el("svg:line", { x1: x(0), x2: x(1), y1: y(value), y2: y(value), class: "rule" }),
      el("svg:text", { x: LEFT - 6, y: y(value) + 4, class: "tick", "text-anchor": "end" }, formatNumber(value)),
      el("svg:text", { x: x(value), y: HEIGHT - 8, class: "tick", "text-anchor": "middle" }, `${100 * value} %`),
    );
  }
  const names = Object.keys(image.curves);
  names.forEach((name, index) => {
    const points = image.curves[name].map((value, step) => (value === null ? "" : `${x(image.fractions[step])},${y(value)}`)).join(" ");
    svg.append(el("svg:polyline", { points, class: `line${name === mask ? " strong" : ""}`, stroke: colour(name, index), "stroke-dasharray": DASHED[name.startsWith(OF_RANKING) ? "ap" : name] ?? null }));
  });
  if (mask !== "off") {
    svg.append(el("svg:line", { x1: x(fraction), x2: x(fraction), y1: TOP, y2: HEIGHT - BOTTOM, class: "handle" }));
    const value = at(image.fractions, image.curves[mask], fraction);
    if (Number.isFinite(value)) svg.append(el("svg:circle", { cx: x(fraction), cy: y(value), r: 5, class: "knob" }, el("svg:title", {}, formatNumber(value))));
  }
  const drag = (event) => {
    const frame = svg.getBoundingClientRect();
    const position = ((event.clientX - frame.left) / frame.width) * WIDTH;
    onFraction(Math.min(1, Math.max(0, (position - LEFT) / (WIDTH - LEFT - RIGHT))));
  };
  svg.addEventListener("pointerdown", drag);
  svg.addEventListener("pointermove", (event) => event.buttons && drag(event));
  const legend = names.map((name, index) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = colour(name, index);
    return el("span", {}, swatch, name.replaceAll("_", " "));
  });
  box.replaceChildren(svg, el("p", { class: "line-keys" }, ...legend), el("p", { class: "quiet" }, `Of the ${image.curve_of}${names.some((name) => name.startsWith(OF_RANKING)) ? "; dotted: of the average precision" : ""}.`));
}

const colour = (name, index) => name.startsWith(OF_RANKING) ? colour(name.slice(OF_RANKING.length), index) : ({ deletion: LINE_COLOURS[1], insertion: LINE_COLOURS[0], random: LINE_COLOURS[7] })[name] ?? LINE_COLOURS[(index + 2) % LINE_COLOURS.length];

/** The curve between its steps. */
function at(fractions, curve, fraction) {
  if (!curve) return NaN;
  const next = fractions.findIndex((value) => value >= fraction);
  if (next <= 0) return curve[Math.max(0, next)] ?? NaN;
  const weight = (fraction - fractions[next - 1]) / (fractions[next] - fractions[next - 1]);
  return curve[next - 1] * (1 - weight) + curve[next] * weight;
}
