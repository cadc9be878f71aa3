// A list: what to ask for, and one page of its rows. A change of any row changes the page's tag.

import { $, make } from "./dom.js";
import { ask } from "./requests.js";

const PAGE_ROWS = 50;

export class List {
  /** `turned` is called after a step to another page. */
  constructor({ name, path, parameters, row, key, turned }) {
    Object.assign(this, { path, parameters, row, key, turned, body: $(name), empty: $(`no-${name}`) });
    this.pager = $(`${name}-pages`);
    this.older = $(`older-${name}`);
    this.newer = $(`newer-${name}`);
    this.older.addEventListener("click", () => this.turn(() => this.cursors.push(this.next)));
    this.newer.addEventListener("click", () => this.turn(() => this.cursors.pop()));
    this.forget();
  }

  /** Begins again at the first page. */
  restart() {
    this.cursors = [];
    this.next = null;
  }

  forget() {
    this.restart();
    this.question = null;
    this.etag = null;
    this.body.replaceChildren();
    this.empty.hidden = true;
    this.pager.hidden = true;
  }

  async turn(move) {
    move();
    await this.turned();
    this.body.closest(".scroll").scrollIntoView({ block: "nearest" });
    if (document.activeElement?.disabled) (this.older.disabled ? this.newer : this.older).focus();
  }

  async refresh(signal) {
    const cursor = this.cursors.at(-1);
    const parameters = { limit: PAGE_ROWS, ...this.parameters(), ...(cursor && { cursor }) };
    const question = JSON.stringify(parameters);
    const page = await ask(this.path, parameters, question === this.question ? this.etag : null, signal);
    if (page === null) return;
    this.next = page.next_cursor;
    this.draw(page.items);
    Object.assign(this, { question, etag: page.etag });
  }

  draw(items) {
    const focused = this.body.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.key : null;
    this.body.replaceChildren(...items.map((item) => {
      const row = this.row(item);
      row.dataset.key = this.key(item);
      return row;
    }));
    this.empty.hidden = items.length > 0;
    this.pager.hidden = !this.next && this.cursors.length === 0;
    this.older.disabled = !this.next;
    this.newer.disabled = this.cursors.length === 0;
    this.pager.querySelector("span").textContent = `Page ${this.cursors.length + 1}`;
    if (focused) {
      [...this.body.rows].find((row) => row.dataset.key === focused)?.querySelector("a")?.focus();
    }
  }
}

/** A cell; on a phone its label stands before it. */
export function cell(label, content, kind = "") {
  return make("td", { className: kind, data: { label } }, make("span", {}, content || "–"));
}
