// Where the viewer is: kept in the address, so that reload, back and links work.

import { make } from "./dom.js";

const TABS = ["overview", "emails", "opens"];
const FIRST_TAB = "overview";

export const place = { tab: FIRST_TAB, emailId: null };

/** Called with each new place. */
let arrive = () => {};

function readPlace() {
  const query = new URLSearchParams(location.search);
  const tab = query.get("tab");
  place.tab = TABS.includes(tab) ? tab : FIRST_TAB;
  place.emailId = query.get("email_id") || null;
}

function addressOf({ tab, emailId }) {
  const query = new URLSearchParams();
  if (tab !== FIRST_TAB) query.set("tab", tab);
  if (tab === "opens" && emailId) query.set("email_id", emailId);
  const text = query.toString();
  return text ? `/dashboard?${text}` : "/dashboard";
}

export function goTo(tab, emailId = null) {
  Object.assign(place, { tab, emailId });
  history.pushState(null, "", addressOf(place));
  arrive();
}

/** Reads the first place, and calls `arrived` with each later one. */
export function travel(arrived) {
  arrive = arrived;
  readPlace();
  addEventListener("popstate", () => {
    readPlace();
    arrive();
  });
}

/** A link to all hits of an email. */
export function linkToOpens(emailId, text) {
  const link = make("a", { href: addressOf({ tab: "opens", emailId }) }, text);
  link.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    goTo("opens", emailId);
  });
  return link;
}
