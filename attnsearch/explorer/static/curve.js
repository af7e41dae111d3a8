// Deletion and insertion curves of one image, with a handle that can be dragged.

import { el, short } from "./page.js";
import { INKS } from "./plot.js";

const [WIDTH, HEIGHT] = [300, 170];
const [LEFT, RIGHT, TOP, BOTTOM] = [34, 8, 8, 26];
const DASHED = { random: "4 4" };

/** Draws the curves of an image; `onShare` gets the share of cells that was pointed at, in [0, 1]. */
export function curvePlot(box, image, { share, mask, onShare }) {
  const x = (value) => LEFT + value * (WIDTH - LEFT - RIGHT);
  const high = Math.max(1, ...Object.values(image.curves).flat().filter(Number.isFinite));
  const y = (value) => TOP + (1 - value / high) * (HEIGHT - TOP - BOTTOM);
  const label = `class probability while cells are removed or inserted: ${Object.keys(image.curves).join(", ")}`;
  const svg = el("svg:svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "plot curve", role: "img", "aria-label": label });
  for (const value of [0, 0.5, 1]) {
    svg.append(
      el("svg:line", { x1: x(0), x2: x(1), y1: y(value), y2: y(value), class: "rule" }),
      el("svg:text", { x: LEFT - 6, y: y(value) + 4, class: "tick", "text-anchor": "end" }, short(value)),
      el("svg:text", { x: x(value), y: HEIGHT - 8, class: "tick", "text-anchor": "middle" }, `${100 * value} %`),
    );
  }
  const names = Object.keys(image.curves);
  names.forEach((name, index) => {
    const points = image.curves[name].map((value, step) => (value === null ? "" : `${x(image.fractions[step])},${y(value)}`)).join(" ");
    svg.append(el("svg:polyline", { points, class: `line${name === mask ? " strong" : ""}`, stroke: ink(name, index), "stroke-dasharray": DASHED[name] ?? null }));
  });
  if (mask !== "off") {
    svg.append(el("svg:line", { x1: x(share), x2: x(share), y1: TOP, y2: HEIGHT - BOTTOM, class: "handle" }));
    const value = at(image.fractions, image.curves[mask], share);
    if (Number.isFinite(value)) svg.append(el("svg:circle", { cx: x(share), cy: y(value), r: 5, class: "knob" }, el("svg:title", {}, short(value))));
  }
  const drag = (event) => {
    const frame = svg.getBoundingClientRect();
    const across = ((event.clientX - frame.left) / frame.width) * WIDTH;
    onShare(Math.min(1, Math.max(0, (across - LEFT) / (WIDTH - LEFT - RIGHT))));
  };
  svg.addEventListener("pointerdown", drag);
  svg.addEventListener("pointermove", (event) => event.buttons && drag(event));
  const legend = names.map((name, index) => {
    const swatch = el("span", { class: "swatch" });
    swatch.style.background = ink(name, index);
    return el("span", {}, swatch, name.replaceAll("_", " "));
  });
  box.replaceChildren(svg, el("p", { class: "line-keys" }, ...legend));
}

const ink = (name, index) => ({ deletion: INKS[1], insertion: INKS[0], random: INKS[7] })[name] ?? INKS[(index + 2) % INKS.length];

/** The curve between its steps. */
function at(fractions, curve, share) {
  if (!curve) return NaN;
  const next = fractions.findIndex((one) => one >= share);
  if (next <= 0) return curve[Math.max(0, next)] ?? NaN;
  const part = (share - fractions[next - 1]) / (fractions[next] - fractions[next - 1]);
  return curve[next - 1] * (1 - part) + curve[next] * part;
}
