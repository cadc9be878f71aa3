// Keeping what is seen fresh: one request at a time, the newest wish wins, nothing while nobody looks.

import { say } from "./dom.js";
import { isOpen, isSignedOut } from "./session.js";

const REFRESH_MS = 10_000;
const LISTEN_AGAIN_MS = 3_000;

/** What is seen: something with `refresh(signal)`, and `pace` if it need not follow every change at once. */
let view = null;
let refreshedAt = 0;
let running = null;
let again = false;
let timer = null;

export function stop() {
  again = false;
  running?.abort();
  running = null;
  clearTimeout(timer);
}

/** Shows the newest of what is seen. */
export async function refresh() {
  stop();
  if (!isOpen() || !view) return;
  const own = new AbortController();
  running = own;
  try {
    await view.refresh(own.signal);
    say({ status: `Up to date at ${new Date().toLocaleTimeString()}` });
  } catch (error) {
    if (own.signal.aborted || isSignedOut(error)) return;
    say({ trouble: `Not up to date: ${error.message}. Trying again.` });
  }
  if (running !== own) return;
  running = null;
  refreshedAt = Date.now();
  if (again) followChange();
  else if (!document.hidden) timer = setTimeout(refresh, REFRESH_MS);
}

/** Something has changed. */
function followChange() {
  const wait = refreshedAt + (view?.pace ?? 0) - Date.now();
  if (wait <= 0) {
    refresh();
    return;
  }
  again = false;
  clearTimeout(timer);
  timer = setTimeout(refresh, wait);
}

/** From now on this is seen. */
export function see(seen) {
  view = seen;
  startOver();
}

/** Shows what is seen from its beginning. */
export function startOver() {
  view?.forget();
  refresh();
}

// ---- Live: the server says that something has changed, also since the connection was lost. Asking now and then goes on,
// for whoever has a proxy in between that holds events back.

let listening = null;
/** Called with each change, also of what is not seen. */
let tell = () => {};

export function onChange(told) {
  tell = told;
}

export function listen() {
  hush();
  listening = new EventSource("/dashboard/api/v1/live");
  listening.addEventListener("changed", () => {
    tell();
    if (document.hidden) return;
    if (running) again = true;
    else followChange();
  });
  // The browser connects again by itself, unless it was refused.
  listening.addEventListener("error", () => {
    if (listening?.readyState === EventSource.CLOSED) setTimeout(() => isOpen() && listen(), LISTEN_AGAIN_MS);
  });
}

export function hush() {
  listening?.close();
  listening = null;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
