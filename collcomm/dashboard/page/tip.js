// The one box that tells more about what the pointer, or the keyboard, is on. It follows the data while it is open.

import { html, write } from "./elements.js";

const MARGIN = 14;

export class Tip {
  constructor(element) {
    this.element = element;
    this.content = null;
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.hide();
    });
    addEventListener("scroll", () => this.hide(), { passive: true, capture: true });
  }

  /** `content()` gives {title, rows: [[name, value], ...], note}, or null when what it was about has gone. */
  show(content, x, y) {
    this.content = content;
    this.place = [x, y];
    this.refresh();
  }

  /** Beside an element that has the focus. */
  showAt(content, element) {
    const box = element.getBoundingClientRect();
    this.show(content, box.right, box.top + box.height / 2);
  }

  hide() {
    this.content = null;
    this.element.hidden = true;
  }

  refresh() {
    if (this.content === null) return;
    const told = this.content();
    if (told === null) {
      this.hide();
      return;
    }
    const title = html("strong", {}, told.title);
    const rows = html("dl");
    for (const [name, value] of told.rows) rows.append(html("dt", {}, name), html("dd", {}, value));
    const note = html("p");
    write(note, told.note ?? "");
    this.element.replaceChildren(title, rows, ...(told.note ? [note] : []));
    this.element.hidden = false;
    const [x, y] = this.place;
    const { offsetWidth: width, offsetHeight: height } = this.element;
    const left = x + MARGIN + width > innerWidth ? Math.max(4, x - MARGIN - width) : x + MARGIN;
    const top = Math.min(Math.max(4, y + MARGIN), Math.max(4, innerHeight - height - 4));
    this.element.style.left = `${left}px`;
    this.element.style.top = `${top}px`;
  }

  /** Pointer and focus on `element` show what `content(element)` tells. */
  attach(element, content) {
    element.addEventListener("pointermove", (event) => this.show(() => content(element), event.clientX, event.clientY));
    element.addEventListener("pointerleave", () => this.hide());
    element.addEventListener("focus", () => {
      if (element.matches(":focus-visible")) this.showAt(() => content(element), element);
    });
    element.addEventListener("blur", () => this.hide());
  }
}
