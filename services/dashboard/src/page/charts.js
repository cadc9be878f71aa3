// The overview: how often emails are opened, when, by what and where. Each chart can be read as a table.

import { $, make } from "./dom.js";
import { refresh } from "./fresh.js";
import { barsAcross, barsBeside, barsUp, forgetDrawings } from "./drawing.js";
import { ask } from "./requests.js";
import { CLASSES, CONFIDENCES, DEVICES, flag, country } from "./words.js";

const PATH = "/dashboard/api/v1/charts";
const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone;
const MOST_COUNTRIES = 12;

/** The spans that can be chosen: how many days, and what a bar stands for. */
const SPANS = {
  week: { days: 7, by: "day" },
  month: { days: 30, by: "day" },
  quarter: { days: 91, by: "day" },
  year: { days: 365, by: "week" },
  ever: { days: null, by: "month" },
};

const numbers = new Intl.NumberFormat();
const shares = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 0 });
const dates = {
  day: new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" }),
  week: new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" }),
  month: new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short" }),
};
const hours = new Intl.DateTimeFormat(undefined, { hour: "numeric", timeZone: "UTC" });
const weekdays = new Intl.DateTimeFormat(undefined, { weekday: "short", timeZone: "UTC" });
const MONDAY = Date.UTC(2024, 0, 1);
const HOUR = 3_600_000;

const sum = (opens) => opens.human + opens.likely + opens.unclear + opens.automated;

/** The start of a day in the viewer's time zone, so many days ago. */
function daysAgo(days) {
  const now = new Date();
  return new Date(now.getFullYear(), now.getMonth(), now.getDate() - days);
}

/** The start of the period that follows `date`, in the viewer's time zone. */
function next(date, by) {
  const step = { day: [0, 1], week: [0, 7], month: [1, 0] }[by];
  return new Date(date.getFullYear(), date.getMonth() + step[0], date.getDate() + step[1]);
}

const NONE = { human: 0, likely: 0, unclear: 0, automated: 0 };

/** All periods of the span, those without opens as well. */
function periods(answer, since) {
  const found = new Map(answer.over_time.map((bar) => [new Date(bar.of).toDateString(), bar]));
  const first = since ? beginning(since, answer.by) : answer.over_time.length && new Date(answer.over_time[0].of);
  const bars = [];
  for (let at = first; at && at <= new Date(); at = next(at, answer.by)) {
    bars.push({ name: dates[answer.by].format(at), ...(found.get(at.toDateString()) ?? NONE) });
  }
  return bars;
}

/** The start of the period in which `date` is. */
function beginning(date, by) {
  if (by === "month") return new Date(date.getFullYear(), date.getMonth(), 1);
  const back = by === "week" ? (date.getDay() + 6) % 7 : 0;
  return new Date(date.getFullYear(), date.getMonth(), date.getDate() - back);
}

const LIMITS = {
  60: "1 min",
  300: "5 min",
  900: "15 min",
  3600: "1 hour",
  10800: "3 hours",
  43200: "12 hours",
  86400: "1 day",
  259200: "3 days",
  604800: "1 week",
};

function delayName(delay) {
  return delay.within_seconds === null ? "later" : `within ${LIMITS[delay.within_seconds]}`;
}

/** Below which limit half of the first opens lie. */
function usualDelay(delays) {
  const all = delays.reduce((so_far, delay) => so_far + delay.emails, 0);
  let before = 0;
  for (const delay of delays) {
    before += delay.emails;
    if (all > 0 && before * 2 >= all) return delay.within_seconds === null ? "over 1 week" : LIMITS[delay.within_seconds];
  }
  return "–";
}

/** The most frequent ones, and the rest together. */
function most(bars, count) {
  if (bars.length <= count) return bars;
  const rest = bars.slice(count - 1).reduce(
    (so_far, bar) => ({
      human: so_far.human + bar.human,
      likely: so_far.likely + bar.likely,
      unclear: so_far.unclear + bar.unclear,
      automated: so_far.automated + bar.automated,
    }),
    NONE,
  );
  return [...bars.slice(0, count - 1), { name: "all others", ...rest }];
}

function tile(id, value, more) {
  $(id).textContent = value;
  $(`${id}-more`).textContent = more;
}

function drawTiles({ opens, emails, first_opens: delays }) {
  tile("all-opens-count", numbers.format(sum(opens)), `${numbers.format(opens.human + opens.likely)} by people`);
  tile("tracked-count", numbers.format(emails.tracked), "opened or fetched for the first time");
  tile(
    "opened-share",
    emails.tracked ? shares.format(emails.opened / emails.tracked) : "–",
    `${emails.tracked ? shares.format(emails.opened_by_people / emails.tracked) : "–"} by people`,
  );
  tile("usual-delay", usualDelay(delays), "of being sent, half of them");
}

/** What the chart says, row by row. */
function drawTable(name, first, columns, rows) {
  const cells = (row) => columns.map((column) => make("td", { className: "number" }, numbers.format(row[column.key])));
  $(`${name}-table`).replaceChildren(
    make(
      "thead",
      {},
      make(
        "tr",
        {},
        make("th", { scope: "col" }, first),
        ...columns.map((column) => make("th", { scope: "col", className: "number" }, column.name)),
      ),
    ),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.name), ...cells(row)))),
  );
}

const BY_CONFIDENCE = ["human", "likely", "unclear", "automated"].map((key) => ({ key, name: CONFIDENCES[key] }));
const BY_EMAILS = [
  { key: "emails", name: "opened" },
  { key: "by_people", name: "opened by people" },
];

async function draw(name, first, columns, rows, how) {
  drawTable(name, first, columns, rows);
  $(name).closest("figure").classList.toggle("bare", rows.every((row) => columns.every(({ key }) => !row[key])));
  await how($(name), columns, rows);
}

async function drawCharts(answer, since) {
  const named = (bars, name) => bars.map((bar) => ({ ...bar, name: name(bar.of) }));
  const numbered = (bars, name) => bars.map((bar, place) => ({ ...bar, name: name(place) }));
  const delays = answer.first_opens.map((delay) => ({ ...delay, name: delayName(delay) }));
  const place = (code) => (code ? `${flag(code)} ${country(code)}`.trim() : "unknown");
  await draw("over-time", { day: "Day", week: "Week of", month: "Month" }[answer.by], BY_CONFIDENCE, periods(answer, since), barsUp);
  await draw("hours", "Hour", BY_CONFIDENCE, numbered(answer.hours, (hour) => hours.format(MONDAY + hour * HOUR)), barsUp);
  await draw("weekdays", "Weekday", BY_CONFIDENCE, numbered(answer.weekdays, (day) => weekdays.format(MONDAY + day * 24 * HOUR)), barsUp);
  await draw("delays", "First open", BY_EMAILS, delays, barsBeside);
  await draw("classes", "Client", BY_CONFIDENCE, named(answer.classes, (name) => CLASSES[name] ?? name), barsAcross);
  await draw("devices", "Device", BY_CONFIDENCE, named(answer.devices, (name) => DEVICES[name] ?? name), barsAcross);
  await draw("countries", "Country", BY_CONFIDENCE, most(named(answer.countries, place), MOST_COUNTRIES), barsAcross);
}

class Overview {
  /** Where opens never stop coming, their charts need not be drawn more often than that. */
  pace = 3_000;

  constructor() {
    this.forget();
  }

  forget() {
    this.question = null;
    this.etag = null;
    forgetDrawings();
  }

  async refresh(signal) {
    const { days, by } = SPANS[document.querySelector('[name="span"]:checked').value];
    const since = days ? daysAgo(days - 1) : null;
    const parameters = { zone: ZONE, by, ...(since && { since: beginning(since, by).toISOString() }) };
    const question = JSON.stringify(parameters);
    const answer = await ask(PATH, parameters, question === this.question ? this.etag : null, signal);
    if (answer === null) return;
    drawTiles(answer);
    await drawCharts(answer, since);
    Object.assign(this, { question, etag: answer.etag });
  }
}

export const overview = new Overview();

$("spans").addEventListener("change", refresh);
// Drawn in the colours of the moment.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  overview.forget();
  refresh();
});
