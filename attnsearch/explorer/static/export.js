// Saves what a page shows: a canvas as PNG; image, map, contour and text as SVG.

import { el, notify } from "./page.js";

const GAP = 12;
const LINE = 20;

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  window.setTimeout(() => URL.revokeObjectURL(url), 10000);
  notify(`${name} saved`);
}

const toBlob = (canvas) => new Promise((resolve) => canvas.toBlob(resolve, "image/png"));

/** A file name that is valid on every system. */
export const fileName = (...parts) => parts.join("_").replace(/[^A-Za-z0-9_.-]+/g, "-").slice(0, 120);

/** Panels in rows: the position of each, and the size of the sheet. */
function arrange(panels, columns) {
  const width = Math.max(...panels.map((panel) => panel.canvas.width));
  const height = Math.max(...panels.map((panel) => panel.canvas.height)) + LINE * 2;
  const places = panels.map((panel, index) => ({
    ...panel, x: GAP + (index % columns) * (width + GAP), y: GAP + Math.floor(index / columns) * (height + GAP),
  }));
  const nColumns = Math.min(columns, panels.length);
  const nRows = Math.ceil(panels.length / columns);
  return { places, width: GAP + nColumns * (width + GAP), height: GAP + nRows * (height + GAP) };
}

/** Saves panels [{canvas, lines: text under it}] as one PNG. */
export async function savePng(panels, name, columns = 4) {
  const { places, width, height } = arrange(panels, columns);
  const sheet = el("canvas", { width, height });
  const context = sheet.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  for (const { canvas, lines, x, y } of places) {
    context.drawImage(canvas, x, y);
    context.fillStyle = "#1d2430";
    context.font = "14px system-ui, sans-serif";
    lines.forEach((text, index) => context.fillText(text, x, y + canvas.height + LINE * (index + 1) - 5, canvas.width));
  }
  save(await toBlob(sheet), `${name}.png`);
}

/** Saves the same as SVG: images as pixels, text and contours as text and lines. */
export function saveSvg(panels, name, columns = 4) {
  const { places, width, height } = arrange(panels, columns);
  const svg = el("svg:svg", { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height });
  svg.append(el("svg:rect", { width, height, fill: "#fff" }));
  for (const { canvas, lines, contour, x, y } of places) {
    svg.append(el("svg:image", { x, y, width: canvas.width, height: canvas.height, href: canvas.toDataURL("image/png") }));
    if (contour?.length) {
      const path = contour.map(([x1, y1, x2, y2]) => `M${(x + x1).toFixed(2)} ${(y + y1).toFixed(2)}L${(x + x2).toFixed(2)} ${(y + y2).toFixed(2)}`).join("");
      svg.append(el("svg:path", { d: path, fill: "none", stroke: "#000", "stroke-opacity": 0.65, "stroke-width": 4, "stroke-linecap": "round" }));
      svg.append(el("svg:path", { d: path, fill: "none", stroke: "#fff", "stroke-width": 2, "stroke-linecap": "round" }));
    }
    lines.forEach((text, index) => {
      const at = y + canvas.height + LINE * (index + 1) - 5;
      svg.append(el("svg:text", { x, y: at, "font-family": "system-ui, sans-serif", "font-size": 14, fill: "#1d2430" }, text));
    });
  }
  const text = new XMLSerializer().serializeToString(svg);
  save(new Blob([text], { type: "image/svg+xml" }), `${name}.svg`);
}

const STYLE_PROPERTIES = ["fill", "fill-opacity", "stroke", "stroke-opacity", "stroke-width", "stroke-dasharray", "stroke-linejoin", "font-family", "font-size", "font-weight"];

/** A copy of a plot that looks the same without the style sheet. */
function standalone(plot) {
  const copy = plot.cloneNode(true);
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  const originals = plot.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((element, index) => {
    const style = window.getComputedStyle(originals[index]);
    for (const property of STYLE_PROPERTIES) element.setAttribute(property, style.getPropertyValue(property));
    for (const name of ["class", "tabindex", "role"]) element.removeAttribute(name);
  });
  const background = window.getComputedStyle(plot.closest(".panel")).backgroundColor;
  copy.prepend(el("svg:rect", { width: "100%", height: "100%", fill: background }));
  return new XMLSerializer().serializeToString(copy);
}

/** Saves a plot of the page as SVG, or as PNG of twice its size. */
export async function savePlot(plot, name, kind) {
  const text = standalone(plot);
  if (kind === "svg") {
    save(new Blob([text], { type: "image/svg+xml" }), `${name}.svg`);
    return;
  }
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = el("canvas", { width: 2 * plot.clientWidth, height: 2 * plot.clientHeight });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  save(await toBlob(canvas), `${name}.png`);
}
