// Maps as numbers: decoding, ranges, sampling, order of cells, contours.

/** A map from the server: {h, w, values}, row-major. */
export function decodeMap(sent) {
  const bytes = Uint8Array.from(atob(sent.cells), (letter) => letter.charCodeAt(0));
  return { h: sent.h, w: sent.w, values: new Float32Array(bytes.buffer) };
}

const SLIVER = 1e-6;

/** The cells of a map that lie on the image, and their box: cells in the padding of the image are cut off. */
export function onImage(map, size, box) {
  const [height, width] = size;
  const [firstColumn, lastColumn] = inside(box[0], box[2], map.w, width);
  const [firstRow, lastRow] = inside(box[1], box[3], map.h, height);
  if (firstColumn >= lastColumn || firstRow >= lastRow) return { map, box };
  const [w, h] = [lastColumn - firstColumn, lastRow - firstRow];
  if (w === map.w && h === map.h) return { map, box };
  const values = new Float32Array(h * w);
  for (let row = 0; row < h; row += 1) {
    const start = (firstRow + row) * map.w + firstColumn;
    values.set(map.values.subarray(start, start + w), row * w);
  }
  const [across, down] = [(box[2] - box[0]) / map.w, (box[3] - box[1]) / map.h];
  const cut = [box[0] + firstColumn * across, box[1] + firstRow * down, box[0] + lastColumn * across, box[1] + lastRow * down];
  return { map: { h, w, values }, box: cut };
}

/** The first cell along an axis that reaches into [0, end], and the one after the last. */
function inside(from, to, n, end) {
  const step = (to - from) / n;
  return [Math.max(0, Math.floor(-from / step + SLIVER)), Math.min(n, Math.ceil((end - from) / step - SLIVER))];
}

/** Least and largest defined value of some maps; NaN where nothing is defined. */
export function rangeOf(maps) {
  let low = Infinity;
  let high = -Infinity;
  for (const map of maps) {
    for (const value of map.values) {
      if (Number.isFinite(value)) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
  }
  return low <= high ? { low, high } : { low: NaN, high: NaN };
}

/** The colour scale of a range: signed values are centred on 0, others start at 0 unless they are stretched. */
export function scaleOf({ low, high }, { isStretched = false, isSigned = low < 0 } = {}) {
  if (isSigned) {
    const limit = Math.max(Math.abs(low), Math.abs(high));
    return { low: -limit, high: limit, isSigned: true };
  }
  return { low: isStretched ? low : 0, high, isSigned: false };
}

/** The scales of maps that are shown together, null for a missing map: `one` for all, else each its own, from 0 or `stretch`ed. */
export function scalesOf(maps, rule) {
  const range = rangeOf(maps.filter(Boolean));
  const options = { isStretched: rule === "stretch", isSigned: range.low < 0 };
  const shared = scaleOf(range, options);
  return maps.map((map) => map && (rule === "one" ? shared : scaleOf(rangeOf([map]), options)));
}

const FINE = 8;

/** Whether a map has so many rows and columns that values between its cells may be shown. */
export const isFine = (map) => Math.min(map.h, map.w) >= FINE;

/** The name of a map with its grid: "saliency, 3x3 (9 cells)". */
export const gridText = (label, map) => `${label}, ${map.h}x${map.w} (${map.h * map.w} cells)`;

const FLAT_GINI = 0.1;
const FLAT_RATIO = 2;

/** Whether an unsigned map hardly tells one place from another. */
export function isFlat(map) {
  const { low, high } = rangeOf([map]);
  return low >= 0 && (high < FLAT_RATIO * low || giniOf(map) < FLAT_GINI);
}

/** Gini's coefficient of values that are not negative; 0 if they are equal, near 1 if one of many is not 0. */
function giniOf(map) {
  const values = map.values.filter(Number.isFinite).sort();
  const total = values.reduce((sum, value) => sum + value, 0);
  if (!(total > 0)) return 0;
  const ranked = values.reduce((sum, value, index) => sum + (index + 1) * value, 0);
  return (2 * ranked) / (values.length * total) - (values.length + 1) / values.length;
}

/** Value -> [place on the colour map, strength], both in [0, 1]; strength 0 where the value or the scale is undefined. */
export function onScale(value, scale) {
  const extent = scale.high - scale.low;
  if (!Number.isFinite(value) || !(extent > 0)) return [0, 0];
  const t = Math.min(1, Math.max(0, (value - scale.low) / extent));
  return [t, scale.isSigned ? Math.abs(2 * t - 1) : t];
}

/** Where a position in cells lies between two cell centres: [first, second, weight of the second]. */
export function neighbourCells(position, n) {
  const centred = Math.min(n - 1, Math.max(0, position - 0.5));
  const first = Math.min(n - 1, Math.floor(centred));
  return [first, Math.min(n - 1, first + 1), centred - first];
}

/** The value at (x, y), in cells from the top left corner of the map. */
export function sample(map, x, y, isSmooth) {
  if (!isSmooth) {
    const column = Math.min(map.w - 1, Math.max(0, Math.floor(x)));
    const row = Math.min(map.h - 1, Math.max(0, Math.floor(y)));
    return map.values[row * map.w + column];
  }
  const [left, right, toRight] = neighbourCells(x, map.w);
  const [top, bottom, down] = neighbourCells(y, map.h);
  const at = (row, column) => map.values[row * map.w + column];
  const upper = at(top, left) * (1 - toRight) + at(top, right) * toRight;
  const lower = at(bottom, left) * (1 - toRight) + at(bottom, right) * toRight;
  return upper * (1 - down) + lower * down;
}

/** Cells from the most to the least salient; equal ones in row-major order, as the scores do. */
export function orderOf(map) {
  const key = (cell) => (Number.isFinite(map.values[cell]) ? map.values[cell] : -Infinity);
  return Array.from(map.values.keys()).sort((a, b) => key(b) - key(a) || a - b);
}

/** The map divided by the mean of its absolute values, so that maps of several models and grids fit one scale: 1 is a flat map. */
export function overMean(map) {
  const sizes = map.values.filter(Number.isFinite).map(Math.abs);
  const mean = sizes.reduce((sum, size) => sum + size, 0) / sizes.length;
  return { ...map, values: map.values.map((value) => (mean > 0 ? value / mean : value)) };
}

/** First map minus second, on the finer grid of both, at the same places of the original image. */
export function difference(first, second, firstBox, secondBox) {
  const [h, w] = first.h * first.w >= second.h * second.w ? [first.h, first.w] : [second.h, second.w];
  const box = firstBox;
  const values = new Float32Array(h * w);
  for (let row = 0; row < h; row += 1) {
    for (let column = 0; column < w; column += 1) {
      const x = box[0] + ((column + 0.5) / w) * (box[2] - box[0]);
      const y = box[1] + ((row + 0.5) / h) * (box[3] - box[1]);
      values[row * w + column] = valueAt(first, firstBox, x, y) - valueAt(second, secondBox, x, y);
    }
  }
  return { h, w, values };
}

/** The value at a point of the original image; NaN where the model does not see it. */
export function valueAt(map, box, x, y) {
  const across = (x - box[0]) / (box[2] - box[0]);
  const down = (y - box[1]) / (box[3] - box[1]);
  if (across < 0 || across >= 1 || down < 0 || down >= 1) return NaN;
  return sample(map, across * map.w, down * map.h, false);
}

const FINER = 4;

/** Line segments [x1, y1, x2, y2] in cells where the map crosses a level (marching squares on the smooth map). */
export function contour(map, level) {
  const h = map.h * FINER;
  const w = map.w * FINER;
  const grid = new Float32Array((h + 1) * (w + 1));
  for (let row = 0; row <= h; row += 1) {
    for (let column = 0; column <= w; column += 1) {
      grid[row * (w + 1) + column] = sample(map, column / FINER, row / FINER, true);
    }
  }
  const segments = [];
  for (let row = 0; row < h; row += 1) {
    for (let column = 0; column < w; column += 1) {
      crossings(grid, row, column, w + 1, level, segments);
    }
  }
  return segments;
}

function crossings(grid, row, column, stride, level, segments) {
  const at = row * stride + column;
  const corners = [grid[at], grid[at + 1], grid[at + stride + 1], grid[at + stride]];
  if (!corners.every(Number.isFinite)) return;
  const places = [[0, 0], [1, 0], [1, 1], [0, 1]];
  const points = [];
  for (let side = 0; side < 4; side += 1) {
    const [from, to] = [corners[side], corners[(side + 1) % 4]];
    if (from >= level !== to >= level) {
      const fraction = (level - from) / (to - from);
      const [[x1, y1], [x2, y2]] = [places[side], places[(side + 1) % 4]];
      points.push([(column + x1 + fraction * (x2 - x1)) / FINER, (row + y1 + fraction * (y2 - y1)) / FINER]);
    }
  }
  for (let index = 0; index + 1 < points.length; index += 2) segments.push([...points[index], ...points[index + 1]]);
}
