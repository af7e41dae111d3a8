// Two plots in SVG, drawn by hand: points to click, and lines by epoch.

import { el, formatNumber } from "./page.js";

const MARGIN = { left: 62, right: 14, top: 12, bottom: 44 };
export const LINE_COLOURS = ["#2f6fde", "#d9622b", "#2a9d6f", "#a04ec4", "#b8860b", "#d1477a", "#0f8fa8", "#6b7280"];

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

function frame(box, xs, ys, { xLabel, yLabel, height, wholeX = false, label }) {
  const width = Math.max(280, box.clientWidth || 480);
  const inner = { w: width - MARGIN.left - MARGIN.right, h: height - MARGIN.top - MARGIN.bottom };
  const [x0, x1] = paddedRange(xs);
  const [y0, y1] = paddedRange(ys);
  const x = (value) => MARGIN.left + ((value - x0) / (x1 - x0)) * inner.w;
  const y = (value) => MARGIN.top + inner.h - ((value - y0) / (y1 - y0)) * inner.h;
  const svg = el("svg:svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "plot", role: "group", "aria-label": label });
  const xTicks = ticks(x0, x1, width < 420 ? 4 : 6).filter((value) => !wholeX || Number.isInteger(value));
  for (const value of ticks(y0, y1)) {
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
 * Points to click. points: [{x, y, name, isBest, isSelected, key}]; the best ones are joined by a line where `isFront`.
 * Names stand in tooltips, labels at the axes.
 */
export function scatter(box, points, { xName, yName, xLabel, yLabel, isFront, onPick, height = 320 }) {
  const shown = points.filter((one) => Number.isFinite(one.x) && Number.isFinite(one.y));
  if (!shown.length) {
    box.replaceChildren(el("p", { class: "quiet" }, "No trial has both values yet."));
    return;
  }
  const label = `${yName} by ${xName}, one point per trial`;
  const { svg, x, y } = frame(box, shown.map((one) => one.x), shown.map((one) => one.y), { xLabel, yLabel, height, label, wholeX: shown.every((one) => Number.isInteger(one.x)) });
  const front = shown.filter((one) => one.isBest).sort((a, b) => a.x - b.x);
  if (isFront && front.length > 1) {
    svg.append(el("svg:polyline", { points: front.map((one) => `${x(one.x)},${y(one.y)}`).join(" "), class: "front" }));
  }
  for (const one of [...shown].sort((a, b) => a.isBest - b.isBest || a.isSelected - b.isSelected)) {
    svg.append(point(one, x(one.x), y(one.y), { xName, yName, onPick }));
  }
  box.replaceChildren(svg);
}

function point(one, cx, cy, { xName, yName, onPick }) {
  const name = `${one.name}: ${yName} ${formatNumber(one.y)}, ${xName} ${formatNumber(one.x)}${one.isBest ? ", best" : ""}`;
  const pick = () => onPick(one.key);
  const group = el(
    "svg:g",
    {
      class: `point${one.isBest ? " best" : ""}${one.isSelected ? " selected" : ""}`,
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
      for (const [at, value] of run) {
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
