// The browser's own notifications of opens by people, for who wants them: also while something else is looked at.

import { $, say } from "./dom.js";
import { onChange } from "./fresh.js";
import { goTo } from "./place.js";
import { ask } from "./requests.js";
import { isOpen, isSignedOut } from "./session.js";
import { CLASSES, country } from "./words.js";

const OPENS = "/dashboard/api/open-events";
/** Whoever is told of more at once is told how many there are. */
const MOST_TOLD = 3;
/** So many of the latest opens are compared with those of the time before. */
const COMPARED = 50;
/** Where changes are held back by a proxy. */
const LOOK_AGAIN_MS = 30_000;
/** Where the browser keeps that they are wanted. */
const WANTED = "notify";

/** The latest opens when it was looked last; null before the first look, of which nothing is told. */
let known = null;
let etag = null;
let looking = false;
let again = false;
let timer = null;

const isWanted = () => localStorage.getItem(WANTED) !== null && Notification.permission === "granted";
const isByPeople = ({ confidence }) => confidence === "human" || confidence === "likely";

function show() {
  $("notify").setAttribute("aria-pressed", String(isWanted()));
}

/** Those that were not there before. What is older than all that was compared has only moved up. */
function newOf(items) {
  const ids = new Set(known.map(({ id }) => id));
  const oldest = known.length === COMPARED ? known.at(-1).opened_at : "";
  return items.filter((open) => !ids.has(open.id) && open.opened_at >= oldest && isByPeople(open));
}

async function look() {
  again = looking;
  if (looking || !isOpen() || !isWanted()) return;
  looking = true;
  try {
    const found = await ask(OPENS, { limit: COMPARED }, etag);
    if (found !== null && isOpen()) {
      const opens = known === null ? [] : newOf(found.items);
      ({ items: known, etag } = found);
      tell(opens);
    }
  } catch (error) {
    isSignedOut(error); // Anything else is told by the list that is seen, and looked at again.
  }
  looking = false;
  if (again) look();
}

/** One notification for each email, of its latest open, or one for all. */
function tell(opens) {
  const emails = [...new Map(opens.toReversed().map((open) => [open.email_id, open])).values()];
  if (emails.length > MOST_TOLD) {
    const recipients = emails.map((open) => open.recipient).join(", ");
    notify(`${emails.length} emails opened`, recipients, "opens", () => goTo("opens"));
    return;
  }
  for (const open of emails) {
    const about = [CLASSES[open.agent_class] ?? open.agent_class, country(open.geo_country)].filter(Boolean).join(", ");
    notify(`Opened: ${open.recipient}`, about, open.email_id, () => goTo("opens", open.email_id));
  }
}

/** One with the same tag takes the place of the one before. */
function notify(title, body, tag, go) {
  try {
    const notification = new Notification(title, { body, tag, icon: "/dashboard/icon.svg" });
    notification.addEventListener("click", () => {
      window.focus();
      notification.close();
      go();
    });
  } catch {
    // Browsers of phones let only installed pages notify.
    turnOff("This browser does not let pages notify.");
  }
}

function turnOff(trouble = "") {
  localStorage.removeItem(WANTED);
  stopNotifying();
  show();
  if (trouble) say({ trouble });
}

async function turnOn() {
  const permission = await Notification.requestPermission();
  if (permission !== "granted") {
    say({ trouble: "Not allowed: this browser's settings for this page say whether it may notify." });
    return;
  }
  localStorage.setItem(WANTED, "opens");
  startNotifying();
}

/** There is a session: from now on new opens are told, if that is wanted. */
export function startNotifying() {
  stopNotifying();
  $("notify").hidden = !("Notification" in window);
  if ($("notify").hidden) return;
  show();
  timer = setInterval(look, LOOK_AGAIN_MS);
  look();
}

/** There is none any more. */
export function stopNotifying() {
  clearInterval(timer);
  known = null;
  etag = null;
  if (!isOpen()) $("notify").hidden = true;
}

onChange(look);
$("notify").addEventListener("click", () => (isWanted() ? turnOff() : turnOn()));
