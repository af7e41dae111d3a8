// What all pages share: elements, requests, the state in the URL, links that keep it, keys.

/** An element; text is always text, never markup. */
export function el(tag, attributes = {}, ...children) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export const byId = (id) => document.getElementById(id);

/** The values that the server put into the page. */
export const pageData = (id) => JSON.parse(byId(id).textContent);

/** JSON from the server; throws an error with the message of the server where it refuses. */
export async function getJson(path, query = {}) {
  const response = await fetch(withQuery(path, query), { headers: { Accept: "application/json" } });
  const values = await response.json();
  if (!response.ok) throw new Error(values.error ?? `the server answered ${response.status}`);
  return values;
}

/** A path with a query; empty values are left out. */
export function withQuery(path, query) {
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== "" && item !== null && item !== undefined) parameters.append(key, item);
    }
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}

/** A path below /attention, each part made safe. */
export const pathTo = (...parts) => `/attention/${parts.map(encodeURIComponent).join("/")}`;

/** The state of a page: its defaults, and what its URL sets. The default of `split` is "", so that a split in the URL stays there. */
export class State {
  constructor(defaults) {
    this.defaults = defaults;
    this.read();
  }

  read() {
    const query = new URLSearchParams(window.location.search);
    this.values = Object.fromEntries(
      Object.entries(this.defaults).map(([key, value]) => {
        if (Array.isArray(value)) return [key, query.getAll(key).length ? query.getAll(key) : value];
        return [key, query.has(key) ? query.get(key) : value];
      }),
    );
  }

  get(key) {
    return this.values[key];
  }

  number(key) {
    const value = Number(this.values[key]);
    return Number.isFinite(value) ? value : Number(this.defaults[key]);
  }

  /** Changes the state and the URL; `isStep` makes the browser's back button return to the state before. */
  set(changes, { isStep = false } = {}) {
    Object.assign(this.values, changes);
    const url = withQuery(window.location.pathname, this.query());
    if (isStep) window.history.pushState(null, "", url);
    else window.history.replaceState(null, "", url);
  }

  /** What differs from the defaults. */
  query(only = Object.keys(this.defaults)) {
    return Object.fromEntries(
      only
        .filter((key) => String(this.values[key]) !== String(this.defaults[key]))
        .map((key) => [key, this.values[key]]),
    );
  }
}

/** A number with four significant digits. */
export function formatNumber(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2).replace("e+", "e") : String(Number(value.toPrecision(4)));
}

/** A mean with its standard error, which is null or missing where there is none. */
export function formatWithError(value, error) {
  return error === null || error === undefined ? formatNumber(value) : `${formatNumber(value)} ± ${Number(error.toPrecision(2))}`;
}

/** A metric key (`split/name`) with the label of the metric: "val accuracy". metrics: name -> {label, summary, better}. */
export function titleOf(metrics, key) {
  const [name, split] = key.split("/").reverse();
  const label = metrics[name]?.label ?? name.replaceAll("_", " ");
  return split ? `${split} ${label}` : label;
}

/** What a metric measures and which direction is better; only the key where the metric is unknown. */
export function hintOf(metrics, key) {
  const metric = metrics[key.split("/").pop()];
  return metric ? `${key}: ${metric.summary ? `${metric.summary}; ` : ""}${metric.better === "minimize" ? "lower" : "higher"} is better` : key;
}

/** The label of an axis: the title with an arrow in the better direction. */
export function axisOf(metrics, key) {
  const arrow = { minimize: " ↓", maximize: " ↑" }[metrics[key.split("/").pop()]?.better] ?? "";
  return titleOf(metrics, key) + arrow;
}

export const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(value >= 0.995 || value < 0.1 ? 1 : 0)} %`);

let hideTimer = 0;

/** A short message at the foot of the page, also for screen readers. */
export function notify(text) {
  const box = byId("message");
  box.textContent = text;
  box.classList.add("shown");
  window.clearTimeout(hideTimer);
  hideTimer = window.setTimeout(() => box.classList.remove("shown"), 3000);
}

const isTyping = (target) =>
  target instanceof HTMLElement &&
  (target.matches("select, textarea") ||
    (target.matches("input") && !["range", "checkbox", "radio", "button"].includes(target.type)));

/** Binds keys to actions; a text field or a menu keeps its own keys. */
export function onKeys(actions) {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key.startsWith("Arrow") && event.target.matches?.("input, [role=tab]")) return;
    const action = actions[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  });
}

/** Copies the address of the page as it is now. */
export async function copyLink() {
  try {
    await navigator.clipboard.writeText(window.location.href);
    notify("Link copied");
  } catch {
    window.prompt("The link to this view:", window.location.href);
  }
}

/** Buttons that every page has. */
export function bindPage() {
  for (const button of document.querySelectorAll("[data-share]")) button.addEventListener("click", copyLink);
  const help = byId("help");
  if (help) {
    for (const button of document.querySelectorAll("[data-help]")) button.addEventListener("click", () => help.showModal());
    onKeys({ "?": () => help.showModal() });
  }
}

/** Shows an error in the page instead of hiding it in the console. */
export function showError(box, error) {
  box.replaceChildren(el("p", { class: "error", role: "alert" }, error.message));
}

/** Moves the focus between the elements of a grid by so many columns and rows. */
export function moveFocus(elements, columns, rows) {
  if (!elements.length) return;
  const at = elements.indexOf(document.activeElement);
  const perRow = Math.max(1, elements.filter((element) => element.offsetTop === elements[0].offsetTop).length);
  const next = at < 0 ? 0 : at + columns + rows * perRow;
  elements[Math.min(elements.length - 1, Math.max(0, next))].focus();
}
