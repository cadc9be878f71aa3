// What every part of the page needs of the document.
// Everything that comes from outside is put into the page as text, never as markup.

export const $ = (id) => document.getElementById(id);

/** Makes an element with these properties (`data`: its data attributes) and this content; what is null is left out. */
export function make(name, { data = {}, ...properties } = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value !== null && value !== undefined) element[key] = value;
  }
  Object.assign(element.dataset, data);
  element.append(...content.filter((one) => one !== null && one !== undefined && one !== ""));
  return element;
}

/** Only trouble is announced by screen readers, and only when it changes. */
export function say({ status = "", trouble = "" }) {
  if (status || !trouble) $("status").textContent = status;
  if ($("trouble").textContent !== trouble) $("trouble").textContent = trouble;
}
