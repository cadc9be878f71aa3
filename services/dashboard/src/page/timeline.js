// The opens of one email or of all, and the hits that do not count with the reason why.

import { $, make } from "./dom.js";
import { refresh } from "./fresh.js";
import { List, cell } from "./list.js";
import { goTo, linkToOpens, place } from "./place.js";
import { DEVICES, country, time, verdict } from "./words.js";

function row(open) {
  const where = [open.geo_city, open.geo_region, country(open.geo_country)].filter(Boolean).join(", ");
  return make(
    "tr",
    { className: open.suppression_reason ? "uncounted" : "" },
    cell("When", time(open.opened_at), "time"),
    cell("Recipient", linkToOpens(open.email_id, open.recipient), "recipient"),
    cell("Verdict", verdict(open), "verdict"),
    cell("Device", DEVICES[open.device_type] ?? open.device_type),
    cell("Client", open.agent_class?.replaceAll("_", " "), "client"),
    cell("Place", where || null, "place"),
    cell("Address", open.ip_address, "address"),
    cell("User agent", open.user_agent, "agent"),
  );
}

class Opens extends List {
  forget() {
    super.forget();
    $("one-email").hidden = !place.emailId;
    $("one-email-name").textContent = place.emailId ?? "";
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
$("include-all").addEventListener("change", () => {
  opens.restart();
  refresh();
});
$("open-filters").addEventListener("submit", (event) => event.preventDefault());
