// The opens of one email or of all, and the hits that do not count with the reason why.

import { opensOf } from "./emails.js";
import { $, make } from "./dom.js";
import { openErasing } from "./erase.js";
import { offerExport } from "./export.js";
import { refresh } from "./fresh.js";
import { List, cell } from "./list.js";
import { goTo, linkToOpens, place } from "./place.js";
import { ask } from "./requests.js";
import { canErase } from "./session.js";
import { CLASSES, DEVICES, after, country, flag, time, verdict } from "./words.js";

const EMAILS = "/dashboard/api/v1/emails";

/** The email whose timeline it is, if it is one's. */
let email = null;

function when(open) {
  const late = email && after(email.sent_at, open.opened_at);
  if (!late) return time(open.opened_at);
  return make("span", {}, time(open.opened_at), make("small", {}, `${late} after it was sent`));
}

function client(open) {
  const device = DEVICES[open.device_type] ?? open.device_type;
  return make("span", {}, CLASSES[open.agent_class] ?? open.agent_class, make("small", {}, device));
}

/** Where it is as far as that is known, and the address. */
function where(open) {
  const region = open.geo_region === open.geo_city ? null : open.geo_region;
  const names = [open.geo_city, region, country(open.geo_country)].filter(Boolean).join(", ");
  const sign = flag(open.geo_country);
  return make(
    "span",
    {},
    sign && make("span", { className: "flag", ariaHidden: "true" }, sign),
    names || "unknown",
    open.ip_address && make("small", {}, open.ip_address),
  );
}

function row(open) {
  return make(
    "tr",
    { className: open.suppression_reason ? "uncounted" : "" },
    cell("When", when(open), "time"),
    place.emailId ? null : cell("Recipient", linkToOpens(open.email_id, open.recipient), "recipient"),
    cell("Verdict", verdict(open), "verdict"),
    cell("Client", client(open), "client"),
    cell("Place", where(open), "place"),
    cell("User agent", open.user_agent, "agent"),
  );
}

class Opens extends List {
  /** Begins with what is to be seen: of one email all, of all emails what counts. */
  forget() {
    super.forget();
    const isOne = Boolean(place.emailId);
    if (isOne !== this.wasOne) $("include-all").checked = isOne;
    this.wasOne = isOne;
    $("one-email").hidden = !isOne;
    $("all-opens").hidden = !isOne;
    $("erase-one").hidden = !isOne || !canErase();
    $("opens-recipient").hidden = isOne;
    $("one-email-name").textContent = place.emailId ?? "";
    this.forgetEmail();
  }

  forgetEmail() {
    email = null;
    for (const part of ["recipient", "sender", "sent", "opens", "last"]) $(`one-email-${part}`).textContent = "–";
  }

  async refresh(signal) {
    if (place.emailId) await this.refreshEmail(signal);
    await super.refresh(signal);
  }

  async refreshEmail(signal) {
    const found = await ask(EMAILS, { email_id: place.emailId, limit: 1 }, email?.etag, signal);
    if (found === null) return;
    if (!found.items.length) {
      this.forgetEmail(); // erased meanwhile, perhaps
      return;
    }
    email = { ...found.items[0], etag: found.etag };
    $("one-email-recipient").textContent = email.recipient;
    $("one-email-sender").textContent = email.sender_email ?? "–";
    $("one-email-sent").replaceChildren(time(email.sent_at));
    $("one-email-opens").replaceChildren(opensOf(email));
    $("one-email-last").replaceChildren(time(email.last_opened_at));
  }
}

export const opens = new Opens({
  name: "opens",
  path: "/dashboard/api/open-events",
  parameters: () => ({
    ...(place.emailId && { email_id: place.emailId }),
    ...($("include-all").checked && { include: "all" }),
  }),
  row,
  key: (open) => String(open.id),
  turned: refresh,
});

$("all-opens").addEventListener("click", () => goTo("opens"));
$("erase-one").addEventListener("click", () => openErasing(place.emailId));
$("include-all").addEventListener("change", () => {
  opens.restart();
  refresh();
});
$("open-filters").addEventListener("submit", (event) => event.preventDefault());
offerExport("opens", opens.parameters);
