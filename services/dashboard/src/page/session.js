// The session is a cookie that this script cannot read; what it needs to end it is its CSRF token.

import { $, say } from "./dom.js";
import { Unauthorized } from "./requests.js";

const SESSION = "/dashboard/session";

let csrf = null;
let mayErase = false;
let begin = () => {};
let end = () => {};

export const isOpen = () => csrf !== null;

/** Whether there is a recorder to ask for it. */
export const canErase = () => mayErase;

/** What a request that changes something has to carry. */
export const csrfHeader = () => ({ "X-CSRF-Token": csrf ?? "" });

async function open(request = {}) {
  const response = await fetch(SESSION, { cache: "no-store", ...request });
  if (response.status === 401) return false;
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? `The server answered ${response.status}`);
  csrf = body.csrf_token;
  mayErase = body.can_erase;
  return true;
}

/** Ends the session here and asks for the token. */
export function askForToken(problem = "") {
  csrf = null;
  mayErase = false;
  end();
  $("lists").hidden = true;
  $("sign-out").hidden = true;
  $("sign-in").hidden = false;
  $("token-problem").textContent = problem;
  $("token-problem").hidden = !problem;
  say({});
  $("token").focus();
}

/** Asks for the token if `error` says that there is no session any more; answers whether it did. */
export function isSignedOut(error) {
  if (!(error instanceof Unauthorized)) return false;
  askForToken("Please log in again.");
  return true;
}

function welcome() {
  $("sign-in").hidden = true;
  $("lists").hidden = false;
  $("sign-out").hidden = false;
  begin();
}

async function signIn() {
  const token = $("token").value.trim();
  $("token").value = "";
  const request = {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ token }),
  };
  try {
    if (await open(request)) welcome();
    else askForToken("The server does not accept this token.");
  } catch (error) {
    askForToken(`${error.message}.`);
  }
}

async function signOut() {
  try {
    const response = await fetch(SESSION, { method: "DELETE", headers: csrfHeader() });
    if (!response.ok && response.status !== 401) throw new Error(`The server answered ${response.status}`);
    const { all_sessions_ended: everywhere } = response.ok ? await response.json() : { all_sessions_ended: true };
    askForToken(everywhere ? "" : "You are logged out of this browser. Other browsers stay logged in until their week is over.");
  } catch (error) {
    say({ trouble: `Not logged out: ${error.message}.` });
  }
}

/** Calls `begun` when there is a session and `ended` when there is none any more; asks for the token if needed. */
export async function holdSession(begun, ended) {
  begin = begun;
  end = ended;
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    signIn();
  });
  $("sign-out").addEventListener("click", signOut);
  try {
    if (await open()) welcome();
    else askForToken();
  } catch (error) {
    askForToken(`${error.message}.`);
  }
}
