// The dashboard page: lists emails and opens, and keeps them fresh by asking for what changed.
// Everything that comes from outside is put into the page as text, never as markup.

const TOKEN = "email-tracker-token";
const PAGE_ROWS = 100;
const REFRESH_MS = 10_000;

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

// ---- The token lives as long as the browser tab.

const token = () => sessionStorage.getItem(TOKEN);

function askForToken(problem = "") {
  sessionStorage.removeItem(TOKEN);
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

// ---- Requests

class Unauthorized extends Error {}

/** Asks for one page; answers null if `etag` still holds. */
async function ask(path, parameters, etag, signal) {
  const query = new URLSearchParams(parameters);
  const headers = { "X-Tracker-Token": token() ?? "" };
  if (etag) headers["If-None-Match"] = etag;
  const response = await fetch(`${path}?${query}`, { headers, signal, cache: "no-store", credentials: "omit" });
  if (response.status === 304) return null;
  if (response.status === 401) throw new Unauthorized();
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? `The server answered ${response.status}`);
  return { items: body.items, next: body.next_cursor, etag: response.headers.get("ETag") };
}

// ---- A list: what to ask for, and the rows so far. A change of any row changes the tag of the first page.

class List {
  constructor({ path, parameters, row, key, body, empty, more }) {
    Object.assign(this, { path, parameters, row, key, body: $(body), empty: $(empty), more: $(more) });
    this.forget();
    this.more.addEventListener("click", () => {
      this.pages += 1;
      refresh();
    });
  }

  forget() {
    this.pages = 1;
    this.question = null;
    this.etag = null;
    this.body.replaceChildren();
    this.empty.hidden = true;
    this.more.hidden = true;
  }

  async refresh(signal) {
    const parameters = { limit: PAGE_ROWS, ...this.parameters() };
    const question = JSON.stringify([parameters, this.pages]);
    const known = question === this.question ? this.etag : null;
    const first = await ask(this.path, parameters, known, signal);
    if (first === null) return;
    const items = [...first.items];
    let next = first.next;
    for (let page = 1; next && page < this.pages; page += 1) {
      const later = await ask(this.path, { ...parameters, cursor: next }, null, signal);
      items.push(...later.items);
      next = later.next;
    }
    this.draw(items, Boolean(next));
    Object.assign(this, { question, etag: first.etag });
  }

  draw(items, isMore) {
    const focused = this.body.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.key : null;
    this.body.replaceChildren(...items.map((item) => {
      const row = this.row(item);
      row.dataset.key = this.key(item);
      return row;
    }));
    this.empty.hidden = items.length > 0;
    this.more.hidden = !isMore;
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

function emailRow(email) {
  const row = document.createElement("tr");
  row.append(
    cell("Recipient", linkToOpens(email.email_id, email.recipient), "recipient"),
    cell("Sent", time(email.sent_at), "time"),
    cell("Opens", String(email.unique_open_count), "number"),
    cell("Hits", String(email.raw_open_events), "number"),
    cell("Last open", time(email.last_opened_at), "time"),
    cell("First hit", time(email.created_at), "time"),
  );
  return row;
}

const REASONS = {
  duplicate: "no: repeated",
  mark_suppress_next: "no: your own look",
  compose_window: "no: your compose window",
};

function openRow(open) {
  const geo = [open.geo_city, open.geo_region, open.geo_country].filter(Boolean).join(", ");
  const row = document.createElement("tr");
  if (open.suppression_reason) row.className = "uncounted";
  row.append(
    cell("When", time(open.opened_at), "time"),
    cell("Recipient", linkToOpens(open.email_id, open.recipient), "recipient"),
    cell("Counts", open.suppression_reason ? REASONS[open.suppression_reason] ?? open.suppression_reason : "yes"),
    cell("Device", open.device_type),
    cell("Place", geo || null, "place"),
    cell("Address", open.ip_address, "address"),
    cell("User agent", open.user_agent, "agent"),
  );
  return row;
}

const lists = {
  emails: new List({
    path: "/dashboard/api/emails",
    parameters: () => ({
      ...($("search").value && { q: $("search").value }),
      ...($("opened").value && { opened: $("opened").value }),
    }),
    row: emailRow,
    key: (email) => email.email_id,
    body: "emails",
    empty: "no-emails",
    more: "more-emails",
  }),
  opens: new List({
    path: "/dashboard/api/open-events",
    parameters: () => ({
      ...(place.emailId && { email_id: place.emailId }),
      ...($("include-all").checked && { include: "all" }),
    }),
    row: openRow,
    key: (open) => String(open.id),
    body: "opens",
    empty: "no-opens",
    more: "more-opens",
  }),
};

// ---- Keeping it fresh: one request at a time, the newest wish wins, nothing while nobody looks.

let running = null;
let timer = null;

function stop() {
  running?.abort();
  running = null;
  clearTimeout(timer);
}

async function refresh() {
  stop();
  if (!token()) return;
  const own = new AbortController();
  running = own;
  try {
    await lists[place.tab].refresh(own.signal);
    say({ status: `Up to date at ${new Date().toLocaleTimeString()}` });
  } catch (error) {
    if (own.signal.aborted) return;
    if (error instanceof Unauthorized) {
      askForToken("The server does not accept this token.");
      return;
    }
    say({ trouble: `Not up to date: ${error.message}. Trying again.` });
  }
  if (running === own && !document.hidden) timer = setTimeout(refresh, REFRESH_MS);
}

/** Only trouble is announced by screen readers, and only when it changes. */
function say({ status = "", trouble = "" }) {
  if (status || !trouble) $("status").textContent = status;
  if ($("trouble").textContent !== trouble) $("trouble").textContent = trouble;
}

// ---- What is to be seen

function show() {
  if (!token()) {
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
  document.title = place.tab === "opens" ? "Opens – Email Tracker" : "Email Tracker";
  lists[place.tab].forget();
  refresh();
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value.trim());
  $("token").value = "";
  show();
});
$("sign-out").addEventListener("click", () => askForToken());
$("all-opens").addEventListener("click", () => goTo("opens"));

let typing = null;
$("search").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    lists.emails.pages = 1;
    refresh();
  }, 250);
});
for (const id of ["opened", "include-all"]) {
  $(id).addEventListener("change", () => {
    lists[place.tab].pages = 1;
    refresh();
  });
}
for (const form of ["email-filters", "open-filters"]) {
  $(form).addEventListener("submit", (event) => event.preventDefault());
}

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
show();
