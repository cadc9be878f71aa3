// The dashboard page: lists emails and opens, and keeps them fresh by asking for what changed.
// Everything that comes from outside is put into the page as text, never as markup.

import { offerErasing, setUpErasing, stopErasing } from "/dashboard/erase.js";
import { offerExport } from "/dashboard/export.js";

const PAGE_ROWS = 50;
const REFRESH_MS = 10_000;
const LISTEN_AGAIN_MS = 3_000;

const $ = (id) => document.getElementById(id);

// ---- Where the viewer is: kept in the address, so that reload, back and links work.

const place = { tab: "emails", emailId: null };

function readPlace() {
  const query = new URLSearchParams(location.search);
  place.tab = query.get("tab") === "opens" ? "opens" : "emails";
  place.emailId = query.get("email_id") || null;
}

function addressOf({ tab, emailId }) {
  const query = new URLSearchParams();
  if (tab !== "emails") query.set("tab", tab);
  if (tab === "opens" && emailId) query.set("email_id", emailId);
  const text = query.toString();
  return text ? `/dashboard?${text}` : "/dashboard";
}

function goTo(tab, emailId = null) {
  Object.assign(place, { tab, emailId });
  history.pushState(null, "", addressOf(place));
  show();
}

// ---- The session is a cookie that this script cannot read; what it needs to end it is its CSRF token.

const SESSION = "/dashboard/session";
let session = null;

async function openSession(request = {}) {
  const response = await fetch(SESSION, { cache: "no-store", ...request });
  if (response.status === 401) return false;
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? `The server answered ${response.status}`);
  session = { csrf: body.csrf_token, canErase: body.can_erase };
  listen();
  return true;
}

function askForToken(problem = "") {
  session = null;
  stopErasing();
  offerErasing(false);
  hush();
  stop();
  for (const list of Object.values(lists)) list.forget();
  $("lists").hidden = true;
  $("sign-out").hidden = true;
  $("sign-in").hidden = false;
  $("token-problem").textContent = problem;
  $("token-problem").hidden = !problem;
  say({});
  $("token").focus();
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
    if (await openSession(request)) show();
    else askForToken("The server does not accept this token.");
  } catch (error) {
    askForToken(`${error.message}.`);
  }
}

async function signOut() {
  try {
    const request = { method: "DELETE", headers: { "X-CSRF-Token": session?.csrf ?? "" } };
    const response = await fetch(SESSION, request);
    if (!response.ok && response.status !== 401) throw new Error(`The server answered ${response.status}`);
    const { all_sessions_ended: everywhere } = response.ok ? await response.json() : { all_sessions_ended: true };
    askForToken(everywhere ? "" : "You are logged out of this browser. Other browsers stay logged in until their week is over.");
  } catch (error) {
    say({ trouble: `Not logged out: ${error.message}.` });
  }
}

// ---- Requests

class Unauthorized extends Error {}

/** Asks for one page; answers null if `etag` still holds. */
async function ask(path, parameters, etag, signal) {
  const query = new URLSearchParams(parameters);
  const headers = etag ? { "If-None-Match": etag } : {};
  const response = await fetch(`${path}?${query}`, { headers, signal, cache: "no-store" });
  if (response.status === 304) return null;
  if (response.status === 401) throw new Unauthorized();
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? `The server answered ${response.status}`);
  return { items: body.items, next: body.next_cursor, etag: response.headers.get("ETag") };
}

// ---- A list: what to ask for, and one page of its rows. A change of any row changes the page's tag.

class List {
  constructor({ name, path, parameters, row, key }) {
    Object.assign(this, { path, parameters, row, key, body: $(name), empty: $(`no-${name}`) });
    this.pager = $(`${name}-pages`);
    this.older = $(`older-${name}`);
    this.newer = $(`newer-${name}`);
    this.older.addEventListener("click", () => this.turn(() => this.cursors.push(this.next)));
    this.newer.addEventListener("click", () => this.turn(() => this.cursors.pop()));
    this.forget();
  }

  /** Begins again at the first page. */
  restart() {
    this.cursors = [];
    this.next = null;
  }

  forget() {
    this.restart();
    this.question = null;
    this.etag = null;
    this.body.replaceChildren();
    this.empty.hidden = true;
    this.pager.hidden = true;
  }

  async turn(move) {
    move();
    await refresh();
    this.body.closest(".scroll").scrollIntoView({ block: "nearest" });
    if (document.activeElement?.disabled) (this.older.disabled ? this.newer : this.older).focus();
  }

  async refresh(signal) {
    const cursor = this.cursors.at(-1);
    const parameters = { limit: PAGE_ROWS, ...this.parameters(), ...(cursor && { cursor }) };
    const question = JSON.stringify(parameters);
    const page = await ask(this.path, parameters, question === this.question ? this.etag : null, signal);
    if (page === null) return;
    this.next = page.next;
    this.draw(page.items);
    Object.assign(this, { question, etag: page.etag });
  }

  draw(items) {
    const focused = this.body.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.key : null;
    this.body.replaceChildren(...items.map((item) => {
      const row = this.row(item);
      row.dataset.key = this.key(item);
      return row;
    }));
    this.empty.hidden = items.length > 0;
    this.pager.hidden = !this.next && this.cursors.length === 0;
    this.older.disabled = !this.next;
    this.newer.disabled = this.cursors.length === 0;
    this.pager.querySelector("span").textContent = `Page ${this.cursors.length + 1}`;
    if (focused) {
      [...this.body.rows].find((row) => row.dataset.key === focused)?.querySelector("a")?.focus();
    }
  }
}

// ---- Rows

const times = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

function time(text) {
  const moment = text ? new Date(text) : null;
  if (!moment || Number.isNaN(moment.getTime())) return text ?? "–";
  const element = document.createElement("time");
  element.dateTime = moment.toISOString();
  element.title = moment.toISOString();
  element.textContent = times.format(moment);
  return element;
}

function cell(label, content, kind = "") {
  const element = document.createElement("td");
  element.dataset.label = label;
  if (kind) element.className = kind;
  const holder = document.createElement("span");
  holder.append(content ?? "–");
  element.append(holder);
  return element;
}

function linkToOpens(emailId, text) {
  const link = document.createElement("a");
  link.href = addressOf({ tab: "opens", emailId });
  link.textContent = text;
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    goTo("opens", emailId);
  });
  return link;
}

/** How often it was opened, and how often by people if others were among it. */
function opensOf(email) {
  const badge = document.createElement("strong");
  badge.className = email.opened ? "badge opened" : "badge";
  badge.textContent = String(email.unique_open_count);
  if (email.human_open_count === email.unique_open_count) return badge;
  const all = document.createElement("span");
  all.append(badge, ` (${email.human_open_count} by people)`);
  return all;
}

function emailRow(email) {
  const row = document.createElement("tr");
  row.append(
    cell("Recipient", linkToOpens(email.email_id, email.recipient), "recipient"),
    cell("From", email.sender_email, "sender"),
    cell("Sent", time(email.sent_at), "time"),
    cell("Opens", opensOf(email), "number"),
    cell("Hits", String(email.raw_open_events), "number"),
    cell("Last open", time(email.last_opened_at), "time"),
    cell("First hit", time(email.created_at), "time"),
  );
  return row;
}

const REASONS = {
  duplicate: ["Duplicate", "The same reader again, within half a minute."],
  mark_suppress_next: ["Suppressed", "You looked at your own mail."],
  compose_window: ["Suppressed", "Your own compose window loaded it while you wrote."],
};
const CLASSES = {
  human: "Counted",
  likely: "Counted",
  unclear: "Unclear",
  automated: "Automated",
};
const DEVICES = { phone: "Phone", computer: "Computer", other: "Other" };

/** What became of the hit, and why in words. */
function verdict(open) {
  const [name, why] = open.suppression_reason
    ? REASONS[open.suppression_reason] ?? [open.suppression_reason, ""]
    : [CLASSES[open.confidence] ?? "Counted", open.reason ?? ""];
  const badge = document.createElement("strong");
  badge.className = `badge ${name.toLowerCase()}`;
  badge.textContent = name;
  const holder = document.createElement("span");
  holder.append(badge, why && ` ${why}`);
  return holder;
}

const countries = new Intl.DisplayNames(undefined, { type: "region", fallback: "code" });

function country(code) {
  return /^[A-Z]{2}$/.test(code ?? "") ? countries.of(code) : code;
}

function openRow(open) {
  const geo = [open.geo_city, open.geo_region, country(open.geo_country)].filter(Boolean).join(", ");
  const row = document.createElement("tr");
  if (open.suppression_reason) row.className = "uncounted";
  row.append(
    cell("When", time(open.opened_at), "time"),
    cell("Recipient", linkToOpens(open.email_id, open.recipient), "recipient"),
    cell("Verdict", verdict(open), "verdict"),
    cell("Device", DEVICES[open.device_type] ?? open.device_type),
    cell("Client", open.agent_class?.replaceAll("_", " "), "client"),
    cell("Place", geo || null, "place"),
    cell("Address", open.ip_address, "address"),
    cell("User agent", open.user_agent, "agent"),
  );
  return row;
}

/** The start of a day in the viewer's time zone, some days later if so asked. */
function day(text, later = 0) {
  const [year, month, date] = text.split("-").map(Number);
  return new Date(year, month - 1, date + later).toISOString();
}

/** The filters of the emails that are set. */
function filters() {
  const value = (id) => $(id).value.trim();
  return {
    sort: value("sort"),
    ...(value("search") && { q: value("search") }),
    ...(value("opened") && { opened: value("opened") }),
    ...(value("sender") && { sender: value("sender") }),
    ...(value("device") && { device: value("device") }),
    ...(value("class") && { class: value("class") }),
    ...(value("since") && { since: day(value("since")) }),
    ...(value("until") && { until: day(value("until"), 1) }),
  };
}

const lists = {
  emails: new List({
    name: "emails",
    path: "/dashboard/api/v1/emails",
    parameters: filters,
    row: emailRow,
    key: (email) => email.email_id,
  }),
  opens: new List({
    name: "opens",
    path: "/dashboard/api/open-events",
    parameters: () => ({
      ...(place.emailId && { email_id: place.emailId }),
      ...($("include-all").checked && { include: "all" }),
    }),
    row: openRow,
    key: (open) => String(open.id),
  }),
};

// ---- Keeping it fresh: one request at a time, the newest wish wins, nothing while nobody looks.

let running = null;
let again = false;
let timer = null;

function stop() {
  again = false;
  running?.abort();
  running = null;
  clearTimeout(timer);
}

async function refresh() {
  stop();
  if (!session) return;
  const own = new AbortController();
  running = own;
  try {
    await lists[place.tab].refresh(own.signal);
    say({ status: `Up to date at ${new Date().toLocaleTimeString()}` });
  } catch (error) {
    if (own.signal.aborted) return;
    if (error instanceof Unauthorized) {
      askForToken("Please log in again.");
      return;
    }
    say({ trouble: `Not up to date: ${error.message}. Trying again.` });
  }
  if (running !== own) return;
  running = null;
  if (again) refresh();
  else if (!document.hidden) timer = setTimeout(refresh, REFRESH_MS);
}

// ---- Live: the server says that something has changed, also since the connection was lost. Asking now and then goes on,
// for whoever has a proxy in between that holds events back.

let listening = null;

function listen() {
  hush();
  listening = new EventSource("/dashboard/api/v1/live");
  listening.addEventListener("changed", () => {
    if (document.hidden) return;
    if (running) again = true;
    else refresh();
  });
  // The browser connects again by itself, unless it was refused.
  listening.addEventListener("error", () => {
    if (listening?.readyState === EventSource.CLOSED) setTimeout(() => session && listen(), LISTEN_AGAIN_MS);
  });
}

function hush() {
  listening?.close();
  listening = null;
}

/** Only trouble is announced by screen readers, and only when it changes. */
function say({ status = "", trouble = "" }) {
  if (status || !trouble) $("status").textContent = status;
  if ($("trouble").textContent !== trouble) $("trouble").textContent = trouble;
}

// ---- What is to be seen

function show() {
  if (!session) {
    askForToken();
    return;
  }
  $("sign-in").hidden = true;
  $("lists").hidden = false;
  $("sign-out").hidden = false;
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const isChosen = tab.dataset.tab === place.tab;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    $(`panel-${tab.dataset.tab}`).hidden = !isChosen;
  }
  $("one-email").hidden = !place.emailId;
  $("one-email-name").textContent = place.emailId ?? "";
  offerErasing(session.canErase, place.tab === "opens" ? place.emailId : null);
  document.title = place.tab === "opens" ? "Opens – Email Tracker" : "Email Tracker";
  lists[place.tab].forget();
  refresh();
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn();
});
$("sign-out").addEventListener("click", signOut);
$("all-opens").addEventListener("click", () => goTo("opens"));

/** Asks anew, from the first page on. */
function changed() {
  lists[place.tab].restart();
  refresh();
}

let typing = null;
for (const id of ["search", "sender"]) {
  $(id).addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(changed, 250);
  });
}
for (const id of ["opened", "device", "class", "since", "until", "sort", "include-all"]) {
  $(id).addEventListener("change", changed);
}
$("email-filters").addEventListener("reset", () => setTimeout(changed));
for (const form of ["email-filters", "open-filters"]) {
  $(form).addEventListener("submit", (event) => event.preventDefault());
}

offerExport("emails", filters);
offerExport("opens", lists.opens.parameters);
setUpErasing({ csrf: () => session?.csrf ?? "", erased: changed });

const tabs = [...document.querySelectorAll('[role="tab"]')];
for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => goTo(tab.dataset.tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = tabs[(index + step + tabs.length) % tabs.length];
    goTo(next.dataset.tab);
    next.focus();
  });
}

addEventListener("popstate", () => {
  readPlace();
  show();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});

$("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
readPlace();
openSession()
  .then(() => show())
  .catch((error) => askForToken(`${error.message}.`));
