// Tables that sort and filter, for pages that keep sort and filter in the URL.

import { el, formatNumber } from "./page.js";

const COMPARISON = /^(.+?)(>=|<=|>|<|=)(.+)$/;

/** Whether a row fits the words of a filter: `adam lr<0.01 accuracy>=0.8`; a word without a comparison is text. */
export function matchesFilter(row, columns, text) {
  return text.trim().split(/\s+/).filter(Boolean).every((word) => {
    const match = COMPARISON.exec(word);
    if (!match) return columns.some((column) => String(column.value(row) ?? "").toLowerCase().includes(word.toLowerCase()));
    const [, name, sign, limitText] = match;
    const named = columns.filter((column) => column.key.toLowerCase().includes(name.toLowerCase()));
    return named.some((column) => compare(column.value(row), sign, limitText));
  });
}

function compare(value, sign, limitText) {
  if (value === null || value === undefined) return false;
  const limit = Number(limitText);
  if (typeof value !== "number" || !Number.isFinite(limit)) return sign === "=" && String(value).toLowerCase() === limitText.toLowerCase();
  return { ">": value > limit, "<": value < limit, ">=": value >= limit, "<=": value <= limit, "=": value === limit }[sign];
}

/** Rows in the order of a column; missing values last in both directions. */
export function sorted(rows, column, isDescending) {
  if (!column) return rows;
  const missing = (value) => value === null || value === undefined || value === "";
  return [...rows].sort((a, b) => {
    const [first, second] = [column.value(a), column.value(b)];
    if (missing(first) || missing(second)) return missing(first) - missing(second);
    const order = typeof first === "number" && typeof second === "number" ? first - second : String(first).localeCompare(String(second));
    return isDescending ? -order : order;
  });
}

/** Draws a table. columns: [{key, label, hint?, value(row), cell?(row), isNumber}]; `onSort` gets the key of a column. */
export function drawTable(table, columns, rows, { sort, isDescending, onSort, rowClass = () => "" }) {
  const heads = columns.map((column) => {
    const direction = column.key === sort ? (isDescending ? "descending" : "ascending") : "none";
    const inner = column.label
      ? el("button", { type: "button", class: "sort", title: column.hint ?? column.key, onclick: () => onSort(column.key), "data-sort": column.key }, column.label)
      : "";
    return el("th", { scope: "col", "aria-sort": column.label ? direction : null, class: column.isNumber ? "number" : null }, inner);
  });
  const body = rows.map((row) =>
    el("tr", { class: rowClass(row) || null }, ...columns.map((column) => el("td", { class: column.isNumber ? "number" : null }, column.cell ? column.cell(row) : formatNumber(column.value(row))))),
  );
  const focused = document.activeElement?.dataset?.sort;
  table.replaceChildren(el("thead", {}, el("tr", {}, ...heads)), el("tbody", {}, ...body));
  if (focused) [...table.querySelectorAll("[data-sort]")].find((button) => button.dataset.sort === focused)?.focus();
}

/** The last part of each dotted key, or the whole key where another key has the same last part. */
export function shortNames(keys) {
  const last = keys.map((key) => key.split(".").slice(key.endsWith(".name") ? -2 : -1).join("."));
  return keys.map((key, index) => (last.filter((name) => name === last[index]).length === 1 ? last[index] : key));
}
