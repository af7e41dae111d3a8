// Learning curves: two charts with one cursor, zoomed by dragging; redrawn in place while trials run.

/* global uPlot */
import { el, formatNumber } from "./page.js";

const HEIGHT = 270;
const CURSOR = "epochs";
const styleOf = (name) => window.getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The epochs of some lines, sorted, and the values of each line at them; null where a line has none. */
export function joined(lines) {
  const epochs = [...new Set(lines.flatMap((line) => line.xs))].sort((a, b) => a - b);
  const columns = lines.map((line) => {
    const at = new Map(line.xs.map((epoch, index) => [epoch, line.ys[index] ?? null]));
    return epochs.map((epoch) => at.get(epoch) ?? null);
  });
  return [epochs, ...columns];
}

/** One chart in a box of the page; `show` may be called again and again. */
export class Chart {
  constructor(box) {
    this.box = box;
    this.shape = "";
    this.isZoomed = false;
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.plot?.redraw());
    new ResizeObserver(() => this.fit()).observe(box);
  }

  /** lines: [{name, xs, ys, colour, isDashed}]; what is not above 0 has no place on a logarithmic axis. */
  show(lines, { label, isLog }) {
    const drawn = isLog ? lines.map((line) => ({ ...line, ys: line.ys.map((value) => (value > 0 ? value : null)) })) : lines;
    const data = joined(drawn);
    if (!data.slice(1).some((column) => column.some(Number.isFinite))) {
      this.remove(el("p", { class: "quiet" }, lines.length ? "No epoch has ended yet." : "Tick trials in the table to see their curves."));
      return;
    }
    const shape = JSON.stringify([label, isLog, lines.map((line) => [line.name, line.colour, line.isDashed])]);
    if (shape === this.shape) this.plot.setData(data, !this.isZoomed);
    else this.make(drawn, data, { label, isLog, shape });
    this.box.setAttribute("role", "img");
    this.box.setAttribute("aria-label", `${label} by epoch: ${drawn.map(lastOf).join("; ")}`);
    this.box.dataset.points = data[1].filter(Number.isFinite).length;
  }

  make(lines, data, { label, isLog, shape }) {
    this.remove();
    this.shape = shape;
    this.plot = new uPlot(optionsOf(lines, { label, isLog, chart: this }), data, this.box);
    this.plot.over.addEventListener("dblclick", () => { this.isZoomed = false; });
  }

  remove(instead = null) {
    this.plot?.destroy();
    this.plot = null;
    this.shape = "";
    this.isZoomed = false;
    for (const name of ["role", "aria-label", "data-points"]) this.box.removeAttribute(name);
    this.box.replaceChildren(...(instead ? [instead] : []));
  }

  fit() {
    if (this.plot && this.box.clientWidth && this.box.clientWidth !== this.plot.width) this.plot.setSize({ width: this.box.clientWidth, height: HEIGHT });
  }
}

const lastOf = (line) => {
  const last = line.ys.findLastIndex(Number.isFinite);
  return last < 0 ? `${line.name}, nothing yet` : `${line.name}, epoch ${line.xs[last]}, ${formatNumber(line.ys[last])}`;
};

function optionsOf(lines, { label, isLog, chart }) {
  const axis = (name, more) => ({ label: name, stroke: () => styleOf("--quiet"), font: "12px system-ui", labelFont: "600 13px system-ui", grid: { stroke: () => styleOf("--line"), width: 1 }, ticks: { show: false }, ...more });
  return {
    width: Math.max(260, chart.box.clientWidth),
    height: HEIGHT,
    legend: { show: false },
    cursor: { sync: { key: CURSOR, scales: ["x", null] }, drag: { x: true, y: false }, points: { size: 7 } },
    scales: { x: { time: false, range: (_, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) }, y: isLog ? { distr: 3 } : {} },
    axes: [
      axis("epoch", { incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], size: 34, labelSize: 20 }),
      axis(label, { size: 58, labelSize: 20, values: (_, values) => values.map((value) => (value === null ? "" : formatNumber(value))) }),
    ],
    series: [{}, ...lines.map((line) => ({ label: line.name, stroke: line.colour, width: 2, dash: line.isDashed ? [5, 4] : undefined, points: { show: !line.isDashed, size: 5, fill: line.colour } }))],
    hooks: { setSelect: [(plot) => { if (plot.select.width > 0) chart.isZoomed = true; }] },
    plugins: [tooltip(lines)],
  };
}

/** The values of all lines at the epoch under the cursor. */
function tooltip(lines) {
  const box = el("div", { class: "tip", hidden: true });
  const move = (plot) => {
    const { left, idx } = plot.cursor;
    const rows = idx === null || idx === undefined || left < 0 ? [] : lines.map((line, index) => [line, plot.data[index + 1][idx]]).filter(([, value]) => Number.isFinite(value));
    box.hidden = !rows.length;
    if (!rows.length) return;
    box.replaceChildren(el("strong", {}, `epoch ${plot.data[0][idx]}`), ...rows.map(([line, value]) => el("span", {}, swatch(line.colour), `${line.name} ${formatNumber(value)}`)));
    const isRight = left > plot.over.clientWidth / 2;
    box.style.left = isRight ? "" : `${left + 12}px`;
    box.style.right = isRight ? `${plot.over.clientWidth - left + 12}px` : "";
  };
  return { hooks: { init: [(plot) => plot.over.append(box)], setCursor: [move] } };
}

/** A short line in a colour, for keys. */
export function swatch(colour) {
  const line = el("span", { class: "swatch" });
  line.style.background = colour;
  return line;
}
