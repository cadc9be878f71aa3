// Erasing: one email, or all that have one address among their recipients. What it is about is counted first, and a word
// has to be typed. The recorder does it; one that has very much to erase does it in parts.

const ERASURES = "/dashboard/api/v1/erasures";
const WORD = "erase";

const $ = (id) => document.getElementById(id);

class Refused extends Error {}

async function answer(request) {
  const response = await request;
  const body = await response.json();
  if (!response.ok) throw new Refused(body.error ?? `The server answered ${response.status}`);
  return body;
}

function count(number, one, many) {
  return `${number.toLocaleString()} ${number === 1 ? one : many}`;
}

/** What is to be erased, once it is counted. */
let subject = null;

function step(name) {
  for (const part of ["choose", "confirm", "done"]) $(`erase-${part}`).hidden = part !== name;
}

function complain(text = "") {
  $("erase-problem").textContent = text;
}

/** Sets the dialog up; `csrf` gives the session's CSRF token, `erased` is called when the lists are to be asked again. */
export function setUpErasing({ csrf, erased }) {
  const dialog = $("erase");

  function open(emailId, recipient) {
    subject = null;
    complain();
    step("choose");
    $("erase-email").hidden = !emailId;
    $("erase-email-name").textContent = emailId ?? "";
    $("erase-email").dataset.emailId = emailId ?? "";
    $("erase-recipient").value = recipient ?? "";
    dialog.showModal();
  }

  async function look(chosen, name) {
    complain();
    try {
      const query = new URLSearchParams(chosen);
      const found = await answer(fetch(`${ERASURES}/preview?${query}`, { cache: "no-store" }));
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
      complain(`${error.message}.`);
    }
  }

  async function erase() {
    complain();
    $("erase-now").disabled = true;
    const sum = { emails: 0, hits: 0 };
    try {
      for (let complete = false; !complete;) {
        const part = await answer(fetch(ERASURES, {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf() },
          body: JSON.stringify(subject),
        }));
        sum.emails += part.emails;
        sum.hits += part.hits;
        complete = part.complete;
      }
      $("erase-result").textContent =
        `Erased: ${count(sum.emails, "email", "emails")} with ${count(sum.hits, "hit", "hits")}.`;
      step("done");
      $("erase-close").focus();
      erased();
    } catch (error) {
      complain(`${error.message}.`);
      $("erase-now").disabled = false;
      if (sum.emails) erased();
    }
  }

  $("erase-one").addEventListener("click", (event) => open(event.currentTarget.dataset.emailId));
  $("erase-some").addEventListener("click", () => open());
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
}

/** Shows the buttons that lead here if there is a recorder to ask; the one of one email if there is such a one. */
export function offerErasing(canErase, emailId) {
  $("erase-some").hidden = !canErase;
  $("erase-one").hidden = !canErase || !emailId;
  $("erase-one").dataset.emailId = emailId ?? "";
}

/** Closes the dialog, whoever was about to erase. */
export function stopErasing() {
  $("erase").close();
}
