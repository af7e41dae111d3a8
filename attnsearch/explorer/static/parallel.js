// Parallel coordinates: one axis for each hyperparameter and objective, one line for each trial; ranges are brushed.

import { TABLES, entry } from "./colours.js";
import { el, formatNumber } from "./page.js";
import { ticks } from "./plot.js";

const HEIGHT = 330;
const [TOP, BOTTOM, SIDE] = [46, 18, 56];
const AXIS_PX = 118; // the least distance of two axes
const LABEL = 24; // letters
const LEAST_BRUSH = 0.015;
const LOG_FROM = 100; // a range over so many times its lower end has a logarithmic axis

/** An axis {key, label, place(value) in [0, 1] from the bottom, marks: [[place, text]]}; undefined values have no place. */
export function makeAxis(key, label, values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  if (known.every((value) => typeof value === "number")) return numberAxis(key, label, known);
  const names = [...new Set(known.map(String))].sort();
  const place = (value) => (value === null || value === undefined ? null : (names.indexOf(String(value)) + 0.5) / names.length);
  return { key, label, place, marks: names.map((name) => [place(name), name]) };
}

function numberAxis(key, label, known) {
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const isLog = low > 0 && high / low >= LOG_FROM;
  const onAxis = isLog ? Math.log10 : (value) => value;
  const room = low === high ? 1 : 0;
  const [from, to] = [onAxis(low) - room, onAxis(high) + room];
  const place = (value) => (Number.isFinite(value) ? (onAxis(value) - from) / (to - from) : null);
  const marks = low === high ? [low] : isLog ? powers(from, to) : ticks(low, high, 4);
  return { key, label, place, marks: marks.map((value) => [place(value), formatNumber(value)]) };
}

const powers = (from, to) => Array.from({ length: Math.floor(to) - Math.ceil(from) + 1 }, (_, index) => Number((10 ** (Math.ceil(from) + index)).toPrecision(6)));

/** Whether a trial lies in all brushes: key -> [low, high] in places of its axis. */
export const isBrushed = (trial, axes, brushes, valueOf) =>
  axes.every((axis) => {
    if (!brushes[axis.key]) return true;
    const place = axis.place(valueOf(trial, axis.key));
    return place !== null && place >= brushes[axis.key][0] && place <= brushes[axis.key][1];
  });

/**
 * Draws the trials. axes: of `makeAxis`; the colour of a line is its place on the axis `colourKey`.
 * `onBrush` gets the brushes after each change, `onPick` the number of a trial.
 */
export function drawParallel(box, trials, axes, { valueOf, brushes, colourKey, selected, onBrush, onPick }) {
  const width = Math.max(box.clientWidth || 480, 2 * SIDE + AXIS_PX * (axes.length - 1));
  const x = (index) => SIDE + (index * (width - 2 * SIDE)) / Math.max(1, axes.length - 1);
  const y = (place) => TOP + (1 - place) * (HEIGHT - TOP - BOTTOM);
  const svg = el("svg:svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, class: "plot parallel", role: "group", "aria-label": `Parallel coordinates of ${trials.length} trials` });
  const colourAxis = axes.find((axis) => axis.key === colourKey);
  const order = [...trials].sort((a, b) => Number(String(a.number) === selected) - Number(String(b.number) === selected));
  for (const trial of order) {
    const points = axes.map((axis, index) => [x(index), axis.place(valueOf(trial, axis.key))]).filter(([, place]) => place !== null);
    if (points.length < 2) continue;
    const isIn = isBrushed(trial, axes, brushes, valueOf);
    const line = el("svg:polyline", { points: points.map(([at, place]) => `${at},${y(place)}`).join(" "), class: `strand${isIn ? "" : " out"}${String(trial.number) === selected ? " selected" : ""}`, "data-key": trial.number, onclick: () => onPick(String(trial.number)) }, el("svg:title", {}, `trial ${trial.number}`));
    line.style.stroke = colourOf(colourAxis?.place(valueOf(trial, colourKey)));
    svg.append(line);
  }
  axes.forEach((axis, index) => svg.append(axisGroup(axis, x(index), y, { anchor: index === 0 ? "start" : index === axes.length - 1 ? "end" : "middle", edge: index === 0 ? -SIDE + 4 : index === axes.length - 1 ? SIDE - 4 : 0, brush: brushes[axis.key], raise: index % 2, onBrush: (range) => onBrush({ ...brushes, [axis.key]: range }) })));
  box.replaceChildren(svg);
}

/** Viridis without its lightest part, which a light sheet would swallow. */
function colourOf(place) {
  if (place === null || place === undefined) return "#8a8f98";
  const at = 3 * entry(0.08 + 0.74 * place);
  return `rgb(${TABLES.viridis.slice(at, at + 3).join(",")})`;
}

function axisGroup(axis, at, y, { anchor, edge, brush, raise, onBrush }) {
  const group = el("svg:g", { class: "axis-group" },
    el("svg:line", { x1: at, x2: at, y1: y(0), y2: y(1), class: "rule strong" }),
    el("svg:text", { x: at + edge, y: raise ? 14 : 30, class: "axis", "text-anchor": anchor }, axis.label.length > LABEL ? `${axis.label.slice(0, LABEL - 1)}…` : axis.label, el("svg:title", {}, axis.label)),
    ...axis.marks.flatMap(([place, text]) => [
      el("svg:line", { x1: at - 4, x2: at, y1: y(place), y2: y(place), class: "rule strong" }),
      el("svg:text", { x: at - 7, y: y(place) + 4, class: "tick halo", "text-anchor": "end" }, text),
    ]));
  const range = el("svg:rect", { x: at - 8, width: 16, class: "brush" });
  const show = (one) => {
    range.setAttribute("y", one ? y(one[1]) : 0);
    range.setAttribute("height", one ? y(one[0]) - y(one[1]) : 0);
  };
  show(brush);
  const reach = el("svg:rect", { x: at - 16, width: 32, y: y(1) - 6, height: y(0) - y(1) + 12, class: "brush-reach" }, el("svg:title", {}, `${axis.key}: drag to select a range, click to clear it`));
  bindBrush(reach, y, { show, onBrush });
  group.append(range, reach);
  return group;
}

function bindBrush(reach, y, { show, onBrush }) {
  const [bottom, top] = [y(0), y(1)];
  let from = null;
  const placeOf = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(reach.getScreenCTM().inverse());
    return Math.min(1, Math.max(0, (bottom - point.y) / (bottom - top)));
  };
  const rangeTo = (event) => [from, placeOf(event)].sort((a, b) => a - b);
  reach.addEventListener("pointerdown", (event) => {
    from = placeOf(event);
    reach.setPointerCapture(event.pointerId);
  });
  reach.addEventListener("pointermove", (event) => from !== null && show(rangeTo(event)));
  reach.addEventListener("pointerup", (event) => {
    const [low, high] = rangeTo(event);
    from = null;
    onBrush(high - low < LEAST_BRUSH ? undefined : [low, high]);
  });
}
