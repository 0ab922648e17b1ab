/* Calls of the station's API. An error says in the page's language what the station answered. */
import { say } from "./say.js";
import { t } from "./texts.js";

async function call(method, path, { query, body, form, headers } = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  const sent = { ...headers };
  const token = document.querySelector('meta[name="csrf"]').content;
  if (token && method !== "GET") sent["X-CSRF-Token"] = token;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(url, { method, headers: sent, body: form ?? (body === undefined ? undefined : JSON.stringify(body)) });
  } catch {
    throw new Error(t("error.unreachable"));
  }
  if (answer.status === 401 && document.body.dataset.user) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  }
  if (!answer.ok) throw new Error(await readError(answer));
  return answer.status === 204 ? null : answer.json();
}

async function readError(answer) {
  try {
    const error = await answer.json();
    return say(error.detail, error);
  } catch {
    return t("error.status", { status: answer.status });
  }
}

/* Of questions that overtake each other only the last one counts: const isLast = begin(); await ...; if (!isLast()) return; */
export function takeTurns() {
  let last = 0;
  return () => {
    const mine = ++last;
    return () => mine === last;
  };
}

export const get = (path, query) => call("GET", path, { query });
export const post = (path, body, query) => call("POST", path, { body, query });
export const change = (path, body) => call("PUT", path, { body });
export const remove = (path) => call("DELETE", path);
export const send = (path, form, query) => call("POST", path, { form, query });
