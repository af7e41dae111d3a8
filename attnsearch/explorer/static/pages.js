// The buttons below a list that is shown page by page.

import { el } from "./page.js";

/** Shows the number of the page between two buttons; `onTurn` gets the number of the page to go to. */
export function showPages(box, { page, pages }, onTurn) {
  const button = (label, to, name) =>
    el("button", { type: "button", disabled: to < 1 || to > pages, "aria-label": name, onclick: () => onTurn(to) }, label);
  box.replaceChildren(
    ...(pages > 1 ? [button("←", page - 1, "Previous page"), el("span", { class: "quiet" }, `page ${page} of ${pages}`), button("→", page + 1, "Next page")] : []),
  );
}
