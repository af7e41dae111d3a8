// Paints an image under its map. The map covers the model's view, a box in pixels of the original image.

import { TABLES, entry } from "./colours.js";
import { contour, isFine, neighbourCells, onScale, orderOf, rangeOf, scaleOf } from "./field.js";

const UNSEEN = "rgba(0, 0, 0, 0.55)";
const NO_IMAGE = "#8a8f98";
const FILLS = { mean: "rgb(124, 116, 104)", black: "#000", white: "#fff" }; // the mean colour is that of ImageNet

/** The colour map that a scale is shown in: the chosen one, or by default one that fits its sign. */
export function tableName(view, scale) {
  if (view.colours !== "auto") return view.colours;
  return scale.isSigned ? "RdBu" : "inferno";
}

/** The model's view in pixels of a canvas. */
export function boxOn(canvas, shown) {
  const [height, width] = shown.size;
  const [left, top, right, bottom] = shown.box;
  const across = canvas.width / width;
  const down = canvas.height / height;
  return { left: left * across, top: top * down, right: right * across, bottom: bottom * down };
}

/**
 * Paints one image.
 *
 * shown: {size: [height, width] of the original, box, image: an image or null, map: or null}
 * view: {opacity, colours, smooth, isUniform, contour: fraction of the scale or 0}; coarse maps are shown as cells
 * options: {scale, masked: {fraction, keeps, fill}}
 */
export function paint(canvas, shown, view, options = {}) {
  const context = canvas.getContext("2d");
  const box = boxOn(canvas, shown);
  context.imageSmoothingQuality = "high";
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (shown.image) {
    context.drawImage(shown.image, 0, 0, canvas.width, canvas.height);
  } else {
    context.fillStyle = NO_IMAGE;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  if (!shown.map) return;
  const scale = options.scale ?? scaleOf(rangeOf([shown.map]));
  if (options.masked) {
    maskCells(context, canvas, shown, box, options.masked);
  } else {
    darkenUnseen(context, canvas, box);
    layMap(context, canvas, shown.map, box, view, scale);
  }
  if (view.contour > 0) strokeContour(context, shown.map, box, levelOf(view, scale));
}

/** The value of the map at which the contour runs. */
export const levelOf = (view, scale) => scale.low + view.contour * (scale.high - scale.low);

function darkenUnseen(context, canvas, box) {
  context.fillStyle = UNSEEN;
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(box.left, box.top, box.right - box.left, box.bottom - box.top);
  context.fill("evenodd");
}

function layMap(context, canvas, map, box, view, scale) {
  const layer = mapImage(canvas, map, box, { ...view, smooth: view.smooth && isFine(map) }, scale);
  if (!layer) return;
  const sheet = document.createElement("canvas");
  sheet.width = layer.image.width;
  sheet.height = layer.image.height;
  sheet.getContext("2d").putImageData(layer.image, 0, 0);
  context.drawImage(sheet, layer.left, layer.top);
}

/** The coloured map over the pixels whose centres lie in the box: {image, left, top}, or null if there are none. */
export function mapImage(canvas, map, box, view, scale) {
  const left = Math.max(0, Math.ceil(box.left - 0.5));
  const top = Math.max(0, Math.ceil(box.top - 0.5));
  const width = Math.min(canvas.width, Math.ceil(box.right - 0.5)) - left;
  const height = Math.min(canvas.height, Math.ceil(box.bottom - 0.5)) - top;
  if (width < 1 || height < 1) return null;
  const columns = positions(width, left, box.left, box.right, map.w, view.smooth);
  const rows = positions(height, top, box.top, box.bottom, map.h, view.smooth);
  const image = new ImageData(width, height);
  const table = TABLES[tableName(view, scale)];
  let at = 0;
  for (const [up, low, down] of rows) {
    for (const [near, far, across] of columns) {
      const upper = mix(map.values[up * map.w + near], map.values[up * map.w + far], across);
      const lower = mix(map.values[low * map.w + near], map.values[low * map.w + far], across);
      const [t, strength] = onScale(mix(upper, lower, down), scale);
      const row = 3 * entry(t);
      image.data[at] = table[row];
      image.data[at + 1] = table[row + 1];
      image.data[at + 2] = table[row + 2];
      image.data[at + 3] = 255 * view.opacity * (view.isUniform ? Number(strength > 0 || t > 0 || scale.high > scale.low) : strength);
      at += 4;
    }
  }
  return { image, left, top };
}

/** The mean of a and b with the weight of b; with weight 0 an undefined b has no effect. */
const mix = (a, b, weight) => (weight === 0 ? a : a * (1 - weight) + b * weight);

function positions(n, first, from, to, nCells, isSmooth) {
  return Array.from({ length: n }, (_, index) => {
    const cell = ((first + index + 0.5 - from) / (to - from)) * nCells;
    if (isSmooth) return neighbourCells(cell, nCells);
    const whole = Math.min(nCells - 1, Math.max(0, Math.floor(cell)));
    return [whole, whole, 0];
  });
}

/** Hides the most salient cells (deletion), or all others (insertion). */
function maskCells(context, canvas, shown, box, masked) {
  const { map } = shown;
  const order = orderOf(map);
  const nFirst = Math.round(masked.fraction * order.length);
  const hidden = masked.keeps ? order.slice(nFirst) : order.slice(0, nFirst);
  const stepX = (box.right - box.left) / map.w;
  const stepY = (box.bottom - box.top) / map.h;
  context.save();
  context.beginPath();
  for (const cell of hidden) {
    const [x, y] = [cell % map.w, Math.floor(cell / map.w)];
    context.rect(box.left + x * stepX, box.top + y * stepY, stepX, stepY);
  }
  context.clip();
  if (masked.fill === "blur" && shown.image) {
    drawBlurred(context, canvas, shown.image);
  } else {
    context.fillStyle = FILLS[masked.fill] ?? FILLS.mean;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  context.restore();
  darkenUnseen(context, canvas, box);
}

function drawBlurred(context, canvas, image) {
  const small = document.createElement("canvas");
  small.width = 16;
  small.height = Math.max(1, Math.round((16 * canvas.height) / canvas.width));
  const inner = small.getContext("2d");
  inner.imageSmoothingQuality = "high";
  inner.drawImage(image, 0, 0, small.width, small.height);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function strokeContour(context, map, box, level) {
  const path = new Path2D();
  for (const [x1, y1, x2, y2] of contourOn(map, box, level)) {
    path.moveTo(x1, y1);
    path.lineTo(x2, y2);
  }
  const width = Math.max(1, (box.right - box.left) / 260);
  context.lineCap = "round";
  for (const [colour, factor] of [["rgba(0, 0, 0, 0.65)", 3], ["#fff", 1.4]]) {
    context.strokeStyle = colour;
    context.lineWidth = width * factor;
    context.stroke(path);
  }
}

/** The contour in pixels of the canvas. */
export function contourOn(map, box, level) {
  const stepX = (box.right - box.left) / map.w;
  const stepY = (box.bottom - box.top) / map.h;
  return contour(map, level).map(([x1, y1, x2, y2]) => [
    box.left + x1 * stepX, box.top + y1 * stepY, box.left + x2 * stepX, box.top + y2 * stepY,
  ]);
}

/** Sizes a canvas to show an image within a width and a height of the page, sharp on dense screens. */
export function fit(canvas, size, maxWidth, maxHeight, density = Math.min(2, window.devicePixelRatio || 1)) {
  const [height, width] = size;
  const scale = Math.min(maxWidth / width, maxHeight / height);
  canvas.width = Math.max(1, Math.round(width * scale * density));
  canvas.height = Math.max(1, Math.round(height * scale * density));
  canvas.style.width = `${Math.max(1, Math.round(width * scale))}px`;
  canvas.style.height = "auto";
}

/** The image at a URL; null without a URL or where loading fails. */
export function loadImage(url) {
  if (!url) return Promise.resolve(null);
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => resolve(null);
    image.src = url;
  });
}
