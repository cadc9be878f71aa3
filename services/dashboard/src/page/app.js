// The dashboard page: its parts, and which of them is seen.
//
// | module | what it does |
// | --- | --- |
// | place.js | which tab and email, kept in the address |
// | session.js | log in, log out |
// | fresh.js | asks again when something has changed |
// | notify.js | the browser's notifications of opens |
// | list.js | a list, a page at a time |
// | charts.js, emails.js, timeline.js | the tabs |
// | erase.js | asks what is to be erased, and erases it |
// | export.js | a list as a file |
// | drawing.js | how charts are drawn, with Chart.js in vendor/ |
// | words.js, dom.js, requests.js | what they share |

import { overview } from "./charts.js";
import { $ } from "./dom.js";
import { emails } from "./emails.js";
import { offerErasing, stopErasing } from "./erase.js";
import { hush, listen, see, stop } from "./fresh.js";
import { startNotifying, stopNotifying } from "./notify.js";
import { goTo, place, travel } from "./place.js";
import { askForToken, holdSession, isOpen } from "./session.js";
import { opens } from "./timeline.js";

/** What each tab shows: something with `forget()` and `refresh(signal)`. */
const views = { overview, emails, opens };
const TITLES = { overview: "Email Tracker", emails: "Emails – Email Tracker", opens: "Opens – Email Tracker" };

const tabs = [...document.querySelectorAll('[role="tab"]')];

function show() {
  if (!isOpen()) {
    askForToken();
    return;
  }
  for (const tab of tabs) {
    const isChosen = tab.dataset.tab === place.tab;
    tab.setAttribute("aria-selected", String(isChosen));
    tab.tabIndex = isChosen ? 0 : -1;
    $(`panel-${tab.dataset.tab}`).hidden = !isChosen;
  }
  document.title = TITLES[place.tab];
  see(views[place.tab]);
}

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

$("zone").textContent = Intl.DateTimeFormat().resolvedOptions().timeZone;
travel(show);
holdSession(
  () => {
    offerErasing();
    startNotifying();
    listen();
    show();
  },
  () => {
    stopErasing();
    stopNotifying();
    hush();
    stop();
    for (const view of Object.values(views)) view.forget();
  },
);
