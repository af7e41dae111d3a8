// Requests that make a kept model work.

import { withQuery } from "./page.js";

/** What the server answers to a POST; throws an error with the message of the server where it refuses. */
export async function postJson(path, query, body) {
  const response = await fetch(withQuery(path, query), { method: "POST", body, headers: { Accept: "application/json" } });
  const values = await response.json();
  if (!response.ok) throw new Error(values.error ?? `the server answered ${response.status}`);
  return values;
}
