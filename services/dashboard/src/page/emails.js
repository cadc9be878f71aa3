// The emails: searched, filtered, in the order that the viewer chooses.

import { $, make } from "./dom.js";
import { offerExport } from "./export.js";
import { refresh } from "./fresh.js";
import { List, cell } from "./list.js";
import { linkToOpens } from "./place.js";
import { minute } from "./words.js";

/** The start of a day in the viewer's time zone, some days later if so asked. */
function day(text, later = 0) {
  const [year, month, date] = text.split("-").map(Number);
  return new Date(year, month - 1, date + later).toISOString();
}

/** The filters that are set. */
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

/** How often it was opened, and how often by people if others were among it. */
export function opensOf(email) {
  const className = email.opened ? "badge opened" : "badge";
  const badge = make("strong", { className }, String(email.unique_open_count));
  if (email.human_open_count === email.unique_open_count) return badge;
  return make("span", {}, badge, make("small", {}, `${email.human_open_count} by people`));
}

function row(email) {
  return make(
    "tr",
    {},
    cell("Recipient", linkToOpens(email.email_id, email.recipient), "recipient"),
    cell("From", email.sender_email, "sender"),
    cell("Sent", minute(email.sent_at), "time"),
    cell("Opens", opensOf(email), "number"),
    cell("Hits", String(email.raw_open_events), "number"),
    cell("Last open", minute(email.last_opened_at), "time"),
  );
}

export const emails = new List({
  name: "emails",
  path: "/dashboard/api/v1/emails",
  parameters: filters,
  row,
  key: (email) => email.email_id,
  turned: refresh,
});

/** Asks anew, from the first page on. */
function changed() {
  emails.restart();
  refresh();
}

let typing = null;
for (const id of ["search", "sender"]) {
  $(id).addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(changed, 250);
  });
}
for (const id of ["opened", "device", "class", "since", "until", "sort"]) {
  $(id).addEventListener("change", changed);
}
$("email-filters").addEventListener("reset", () => setTimeout(changed));
$("email-filters").addEventListener("submit", (event) => event.preventDefault());
offerExport("emails", filters);
