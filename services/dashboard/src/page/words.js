// How what the API says reads for people.

import { make } from "./dom.js";

const times = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const minutes = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const countries = new Intl.DisplayNames(undefined, { type: "region", fallback: "code" });

const UNITS = [
  [86_400, "day"],
  [3_600, "hour"],
  [60, "minute"],
  [1, "second"],
];

/** How long after `from` something was, in words; empty if that cannot be told. */
export function after(from, at) {
  const seconds = Math.round((new Date(at) - new Date(from)) / 1_000);
  if (Number.isNaN(seconds) || seconds < 0) return "";
  const [size, unit] = UNITS.find(([size]) => seconds >= size) ?? UNITS.at(-1);
  const count = Math.floor(seconds / size);
  return new Intl.NumberFormat(undefined, { style: "unit", unit, unitDisplay: "long" }).format(count);
}

/** A time in the viewer's zone; what is no time stays as it is. */
export function time(text, format = times) {
  const moment = text ? new Date(text) : null;
  if (!moment || Number.isNaN(moment.getTime())) return text ?? "–";
  const iso = moment.toISOString();
  return make("time", { dateTime: iso, title: iso }, format.format(moment));
}

/** The same to the minute; the second shows when it is pointed at. */
export const minute = (text) => time(text, minutes);

export function country(code) {
  return /^[A-Z]{2}$/.test(code ?? "") ? countries.of(code) : code;
}

const flagOf = (code) => String.fromCodePoint(...[...code].map((letter) => 0x1f1e6 + letter.charCodeAt(0) - 65));

/** Whether this computer's fonts have flags: where they have not, a flag is as wide as its two letters. */
const hasFlags = (() => {
  const brush = document.createElement("canvas").getContext("2d");
  const width = (text) => brush.measureText(text).width;
  return width(flagOf("DE")) < 1.5 * width(flagOf("D"));
})();

/** The flag of a country, where that can be shown. */
export function flag(code) {
  return hasFlags && /^[A-Z]{2}$/.test(code ?? "") ? flagOf(code) : "";
}

export const DEVICES = { phone: "Phone", computer: "Computer", other: "Other or hidden" };

export const CLASSES = {
  browser: "Browser",
  mail_client: "Mail client",
  gmail_proxy: "Gmail’s proxy",
  yahoo_proxy: "Yahoo’s proxy",
  microsoft_proxy: "Outlook’s proxy",
  apple_privacy: "Apple’s privacy protection",
  microsoft_scanner: "Microsoft’s scanner",
  security_scanner: "Security scanner",
  bot: "Program",
  unknown: "Unknown",
};

/** How far an open is believed to be somebody's who reads. */
export const CONFIDENCES = {
  human: "by people",
  likely: "likely by people",
  unclear: "unclear",
  automated: "automated",
};

const REASONS = {
  duplicate: ["Duplicate", "The same reader again, within half a minute."],
  mark_suppress_next: ["Suppressed", "You looked at your own mail."],
  compose_window: ["Suppressed", "Your own compose window loaded it while you wrote."],
};
const BADGES = {
  human: "Counted",
  likely: "Counted",
  unclear: "Unclear",
  automated: "Automated",
};

/** What became of the hit, and why in words. */
export function verdict(open) {
  const [name, why] = open.suppression_reason
    ? REASONS[open.suppression_reason] ?? [open.suppression_reason, ""]
    : [BADGES[open.confidence] ?? "Counted", open.reason ?? ""];
  const badge = make("strong", { className: `badge ${name.toLowerCase()}` }, name);
  return make("span", {}, badge, why && ` ${why}`);
}
