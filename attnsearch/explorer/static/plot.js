// Two plots in SVG, drawn by hand: points to click, and lines that do not change.

import { el, formatNumber } from "./page.js";

const MARGIN = { left: 62, right: 14, top: 12, bottom: 44 };
/** After Okabe and Ito, for colour-blind readers; each has a contrast of at least 3 with the light and with the dark sheet. */
export const LINE_COLOURS = ["#0072b2", "#d55e00", "#009070", "#b8609a", "#a67400", "#3a8bd0", "#8a6fe0", "#737d8c"];
const MANY_POINTS = 400; // above which lines have no marks, and only the best and the selected trials are reached by the keyboard

/** The range of some values with a margin on both sides. */
function paddedRange(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

/** About n round numbers within a range. */
export function ticks(low, high, n = 5) {
  const rough = (high - low) / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const places = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) places.push(Number((at * step).toPrecision(12)));
  return places;
}

/** Ticks of a logarithmic axis whose range is in powers of ten: 1, 2 and 5 of each, whole powers of a wide range. */
function logTicks(low, high) {
  const powers = Array.from({ length: Math.floor(high) - Math.floor(low) + 1 }, (_, index) => Math.floor(low) + index);
  const factors = high - low > 3 ? [1] : [1, 2, 5];
  const places = powers.flatMap((power) => factors.map((factor) => Number((factor * 10 ** power).toPrecision(6))));
  const inside = places.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
  return inside.length > 2 ? inside : ticks(10 ** low, 10 ** high);
}

/** One axis: its ticks, and value -> place in [0, 1]. */
function axisOf(values, isLog, nTicks) {
  const onAxis = isLog ? Math.log10 : (value) => value;
  const [low, high] = paddedRange(values.map(onAxis));
  return { ticks: isLog ? logTicks(low, high) : ticks(low, high, nTicks), place: (value) => (onAxis(value) - low) / (high - low) };
}

function frame(box, xs, ys, { xLabel, yLabel, height, wholeX = false, label, isLogX = false, isLogY = false }) {
  const width = Math.max(280, box.clientWidth || 480);
  const inner = { w: width - MARGIN.left - MARGIN.right, h: height - MARGIN.top - MARGIN.bottom };
  const across = axisOf(xs, isLogX, width < 420 ? 4 : 6);
  const up = axisOf(ys, isLogY);
  const x = (value) => MARGIN.left + across.place(value) * inner.w;
  const y = (value) => MARGIN.top + inner.h - up.place(value) * inner.h;
  const svg = el("svg:svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "plot", role: "group", "aria-label": label });
  const xTicks = across.ticks.filter((value) => !wholeX || Number.isInteger(value));
  for (const value of up.ticks) {
    svg.append(
      el("svg:line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value), y2: y(value), class: "rule" }),
      el("svg:text", { x: MARGIN.left - 8, y: y(value) + 4, class: "tick", "text-anchor": "end" }, formatNumber(value)),
    );
  }
  for (const value of xTicks) {
    svg.append(el("svg:text", { x: x(value), y: height - MARGIN.bottom + 18, class: "tick", "text-anchor": "middle" }, formatNumber(value)));
  }
  svg.append(
    el("svg:text", { x: MARGIN.left + inner.w / 2, y: height - 6, class: "axis", "text-anchor": "middle" }, xLabel),
    el("svg:text", { x: 14, y: MARGIN.top + inner.h / 2, class: "axis", "text-anchor": "middle", transform: `rotate(-90 14 ${MARGIN.top + inner.h / 2})` }, yLabel),
  );
  return { svg, x, y };
}

/**
 * Points to click. points: [{x, y, name, isBest, isSelected, isRunning, key}]; the best ones are joined by a line where
 * `isFront`. Names stand in tooltips, labels at the axes. A logarithmic axis leaves out what is not above 0.
 */
export function scatter(box, points, { xName, yName, isFront, onPick, height = 320, isLogX, isLogY, ...labels }) {
  const shown = points.filter((one) => Number.isFinite(one.x) && Number.isFinite(one.y) && !(isLogX && one.x <= 0) && !(isLogY && one.y <= 0));
  if (!shown.length) {
    box.replaceChildren(el("p", { class: "quiet" }, isLogX || isLogY ? "No trial has two values above 0." : "No trial has both values yet."));
    return;
  }
  const wholeX = shown.every((one) => Number.isInteger(one.x));
  const label = `${yName} by ${xName}, one point per trial`;
  const { svg, x, y } = frame(box, shown.map((one) => one.x), shown.map((one) => one.y), { ...labels, height, label, wholeX, isLogX, isLogY });
  const front = shown.filter((one) => one.isBest).sort((a, b) => a.x - b.x);
  if (isFront && front.length > 1) {
    svg.append(el("svg:polyline", { points: front.map((one) => `${x(one.x)},${y(one.y)}`).join(" "), class: "front" }));
  }
  const isSmall = (one) => shown.length > MANY_POINTS && !one.isBest && !one.isSelected;
  svg.append(dots(svg, shown.filter(isSmall).map((one) => [x(one.x), y(one.y), one.key]), onPick));
  for (const one of shown.filter((one) => !isSmall(one)).sort((a, b) => a.isBest - b.isBest || a.isSelected - b.isSelected)) {
    svg.append(point(one, x(one.x), y(one.y), { xName, yName, onPick }));
  }
  box.replaceChildren(svg);
}

/** Many points as one path, which is drawn at once; a click picks the nearest one. */
function dots(svg, places, onPick) {
  const path = el("svg:path", { class: "dots", "stroke-linecap": "round", "data-n": places.length, d: places.map(([x, y]) => `M${x.toFixed(1)} ${y.toFixed(1)}h0`).join("") });
  path.addEventListener("click", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const far = ([x, y]) => Math.hypot(x - at.x, y - at.y);
    onPick(places.reduce((best, one) => (far(one) < far(best) ? one : best))[2]);
  });
  return path;
}

function point(one, cx, cy, { xName, yName, onPick }) {
  const name = `${one.name}: ${yName} ${formatNumber(one.y)}, ${xName} ${formatNumber(one.x)}${one.isBest ? ", best" : ""}${one.isRunning ? ", running" : ""}`;
  const pick = () => onPick(one.key);
  const group = el(
    "svg:g",
    {
      class: `point${one.isBest ? " best" : ""}${one.isRunning ? " running" : ""}${one.isSelected ? " selected" : ""}`,
      tabindex: "0", role: "button", "aria-label": name, "aria-pressed": one.isSelected ? "true" : "false", "data-key": one.key,
      onclick: pick,
      onkeydown: (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          pick();
        }
      },
    },
    el("svg:circle", { cx, cy, r: 13, class: "reach" }),
    el("svg:circle", { cx, cy, r: one.isBest ? 6.5 : 5, class: "dot" }),
    el("svg:title", {}, name),
  );
  return group;
}

/** Lines by epoch, or by what else is counted. lines: [{name, xs, ys, colour, isDashed}]; values that are null leave a gap. */
export function lines(box, series, { yLabel, counted = "epoch", height = 280 }) {
  const pairs = series.flatMap((one) => one.xs.map((at, index) => [at, one.ys[index]])).filter(([, value]) => Number.isFinite(value));
  if (!pairs.length) {
    box.replaceChildren(el("p", { class: "quiet" }, "Nothing was recorded yet."));
    return;
  }
  const options = { xLabel: counted, yLabel, height, wholeX: true, label: `${yLabel} by ${counted}` };
  const { svg, x, y } = frame(box, pairs.map(([at]) => at), pairs.map(([, value]) => value), options);
  for (const one of series) {
    for (const run of segmentsOf(one)) {
      const points = run.map(([at, value]) => `${x(at)},${y(value)}`).join(" ");
      svg.append(el("svg:polyline", { points, class: "line", stroke: one.colour, "stroke-dasharray": one.isDashed ? "5 4" : null }));
      for (const [at, value] of run.length > MANY_POINTS ? [] : run) {
        svg.append(el("svg:circle", { cx: x(at), cy: y(value), r: 2.6, fill: one.colour }, el("svg:title", {}, `${one.name}, ${counted} ${at}: ${formatNumber(value)}`)));
      }
    }
  }
  box.replaceChildren(svg);
}

/** Stretches of a line without gaps. */
function segmentsOf(one) {
  const runs = [[]];
  one.xs.forEach((at, index) => {
    if (Number.isFinite(one.ys[index])) runs[runs.length - 1].push([at, one.ys[index]]);
    else if (runs[runs.length - 1].length) runs.push([]);
  });
  return runs.filter((run) => run.length);
}
