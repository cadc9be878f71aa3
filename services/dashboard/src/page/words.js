// How what the API says reads for people.

import { make } from "./dom.js";

const times = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const countries = new Intl.DisplayNames(undefined, { type: "region", fallback: "code" });

/** A time in the viewer's zone; what is no time stays as it is. */
export function time(text) {
  const moment = text ? new Date(text) : null;
  if (!moment || Number.isNaN(moment.getTime())) return text ?? "–";
  const iso = moment.toISOString();
  return make("time", { dateTime: iso, title: iso }, times.format(moment));
}

export function country(code) {
  return /^[A-Z]{2}$/.test(code ?? "") ? countries.of(code) : code;
}

export const DEVICES = { phone: "Phone", computer: "Computer", other: "Other" };

const REASONS = {
  duplicate: ["Duplicate", "The same reader again, within half a minute."],
  mark_suppress_next: ["Suppressed", "You looked at your own mail."],
  compose_window: ["Suppressed", "Your own compose window loaded it while you wrote."],
};
const CONFIDENCES = {
  human: "Counted",
  likely: "Counted",
  unclear: "Unclear",
  automated: "Automated",
};

/** What became of the hit, and why in words. */
export function verdict(open) {
  const [name, why] = open.suppression_reason
    ? REASONS[open.suppression_reason] ?? [open.suppression_reason, ""]
    : [CONFIDENCES[open.confidence] ?? "Counted", open.reason ?? ""];
  const badge = make("strong", { className: `badge ${name.toLowerCase()}` }, name);
  return make("span", {}, badge, why && ` ${why}`);
}
