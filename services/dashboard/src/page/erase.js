// Erasing: one email, or all that have one address among their recipients. What it is about is counted first, and a word
// has to be typed. The recorder does it; one that has very much to erase does it in parts.

import { $ } from "./dom.js";
import { startOver } from "./fresh.js";
import { Unauthorized, ask } from "./requests.js";
import { canErase, csrfHeader, isSignedOut } from "./session.js";

const ERASURES = "/dashboard/api/v1/erasures";
const WORD = "erase";

const dialog = $("erase");

/** What is to be erased, once it is counted. */
let subject = null;

function count(number, one, many) {
  return `${number.toLocaleString()} ${number === 1 ? one : many}`;
}

function step(name) {
  for (const part of ["choose", "confirm", "done"]) $(`erase-${part}`).hidden = part !== name;
}

function complain(text = "") {
  $("erase-problem").textContent = text;
}

/** Asks what is to be erased: the email with this id, if there is one, or a recipient's. */
export function openErasing(emailId = null) {
  subject = null;
  complain();
  step("choose");
  $("erase-email").hidden = !emailId;
  $("erase-email-name").textContent = emailId ?? "";
  $("erase-email").dataset.emailId = emailId ?? "";
  $("erase-recipient").value = "";
  dialog.showModal();
}

async function look(chosen, name) {
  complain();
  try {
    const found = await ask(`${ERASURES}/preview`, chosen);
    subject = chosen;
    $("erase-amount").textContent = found.emails === 0
      ? `Nothing is stored: ${name}.${chosen.email_id ? " What still comes of it would be refused." : ""}`
      : `This is about ${count(found.emails, "email", "emails")} with ${count(found.hits, "hit", "hits")}: ${name}. ` +
        "It cannot be undone, and what still comes of them is refused.";
    $("erase-word").value = "";
    $("erase-now").disabled = true;
    step("confirm");
    $("erase-word").focus();
  } catch (error) {
    if (!isSignedOut(error)) complain(`${error.message}.`);
  }
}

/** Erases as much of the subject as one request may; answers what that was. */
async function erasePart() {
  const response = await fetch(ERASURES, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...csrfHeader() },
    body: JSON.stringify(subject),
  });
  if (response.status === 401) throw new Unauthorized();
  const body = await response.json();
  if (!response.ok) throw new Error(body.error ?? `The server answered ${response.status}`);
  return body;
}

async function erase() {
  complain();
  $("erase-now").disabled = true;
  const sum = { emails: 0, hits: 0 };
  try {
    for (let complete = false; !complete;) {
      const part = await erasePart();
      sum.emails += part.emails;
      sum.hits += part.hits;
      complete = part.complete;
    }
    $("erase-result").textContent =
      `Erased: ${count(sum.emails, "email", "emails")} with ${count(sum.hits, "hit", "hits")}.`;
    step("done");
    $("erase-close").focus();
    startOver();
  } catch (error) {
    if (isSignedOut(error)) return;
    complain(`${error.message}.`);
    $("erase-now").disabled = false;
    if (sum.emails) startOver();
  }
}

$("erase-some").addEventListener("click", () => openErasing());
$("erase-email").addEventListener("click", () => {
  const emailId = $("erase-email").dataset.emailId;
  look({ email_id: emailId }, `the email ${emailId}`);
});
$("erase-choose").addEventListener("submit", (event) => {
  event.preventDefault();
  const recipient = $("erase-recipient").value.trim();
  look({ recipient }, `everything to ${recipient}`);
});
$("erase-word").addEventListener("input", () => {
  $("erase-now").disabled = $("erase-word").value.trim().toLowerCase() !== WORD;
});
$("erase-confirm").addEventListener("submit", (event) => {
  event.preventDefault();
  if (subject && !$("erase-now").disabled) erase();
});
for (const button of dialog.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => dialog.close());
}

/** Shows the button that leads here from anywhere, if there is a recorder to ask. */
export function offerErasing() {
  $("erase-some").hidden = !canErase();
}

/** Closes the dialog, whoever was about to erase. */
export function stopErasing() {
  dialog.close();
  offerErasing();
}
