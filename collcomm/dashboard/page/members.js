// The table of members: sorted by any column, the sick ones marked.

import { html, keyed, set, write } from "./elements.js";
import * as format from "./format.js";
import { nameOf, STATES } from "./model.js";

const MOST_ROWS = 256;
const NAMES = 3; // of those waited for

const text = (value) => (value === null || value === undefined ? format.UNKNOWN : String(value));

const COLUMNS = [
  { name: "Rank", value: (member) => member.rank, text: (member) => text(member.rank), number: true },
  { name: "Name", value: (member) => text(member.name), text: (member) => text(member.name), row: true },
  { name: "Host", value: (member) => text(member.host), text: (member) => text(member.host) },
  { name: "Site", value: (member) => text(member.site), text: (member) => text(member.site) },
  { name: "State", value: (member) => STATES.indexOf(member.state), text: (member) => text(member.state), state: true },
  { name: "Operation", value: (member) => member.operation?.seq ?? -1, text: (member) => operation(member.operation) },
  { name: "Waits for", value: (member) => member.operation?.waiting_on?.length ?? 0, text: (member, snapshot) => waiting(member, snapshot) },
  { name: "Done", value: (member) => member.operations ?? -1, text: (member) => format.count(member.operations), number: true },
  { name: "Rate", value: (member) => member.rate ?? -1, text: (member) => per(member.rate), number: true },
  { name: "Sent", value: (member) => member.sent ?? -1, text: (member) => format.rate(member.sent), number: true },
  { name: "Received", value: (member) => member.received ?? -1, text: (member) => format.rate(member.received), number: true },
  { name: "Computing", value: (member) => member.computed ?? -1, text: (member) => format.percent(member.computed), number: true },
  { name: "Late by", value: (member) => member.late ?? -1, text: (member) => format.span(member.late), number: true },
  { name: "Pulse", value: (member) => member.rtt ?? -1, text: (member) => format.span(member.rtt), number: true },
  { name: "Heard", value: (member) => member.heard ?? -1, text: (member) => format.ago(member.heard), number: true },
];

const per = (value) => (typeof value === "number" ? `${format.perSecond(value)}/s` : format.UNKNOWN);

function operation(open) {
  if (!open) return format.UNKNOWN;
  const where = open.gid ? ` in ${open.gid}` : "";
  return `${open.kind} ${format.bytes(open.nbytes)} #${open.seq}${where}, ${format.span(open.age)}`;
}

function waiting(member, snapshot) {
  const ids = member.operation?.waiting_on ?? [];
  if (ids.length === 0) return format.UNKNOWN;
  const names = ids.slice(0, NAMES).map((id) => format.short(nameOf(snapshot, id), 24));
  return ids.length > NAMES ? `${names.join(", ")} and ${ids.length - NAMES} more` : names.join(", ");
}

export class Members {
  constructor(panel, select) {
    this.select = select;
    this.sort = { column: 0, up: true };
    this.body = panel.querySelector("tbody");
    this.note = panel.querySelector(".note");
    this.empty = panel.querySelector(".empty");
    const row = panel.querySelector("thead tr");
    this.heads = COLUMNS.map((column, index) => {
      const button = html("button", { type: "button" }, column.name);
      button.addEventListener("click", () => this.sortBy(index));
      const head = html("th", { scope: "col", class: column.number ? "number" : null }, button);
      row.append(head);
      return head;
    });
  }

  sortBy(column) {
    this.sort = { column, up: this.sort.column === column ? !this.sort.up : true };
    if (this.snapshot) this.render(this.snapshot, this.model, this.selected);
  }

  render(snapshot, model, selected) {
    Object.assign(this, { snapshot, model, selected });
    this.heads.forEach((head, index) =>
      set(head, { "aria-sort": index === this.sort.column ? (this.sort.up ? "ascending" : "descending") : null }),
    );
    const { value } = COLUMNS[this.sort.column];
    const way = this.sort.up ? 1 : -1;
    const sorted = [...snapshot.members].sort((a, b) => way * compare(value(a), value(b)) || a.rank - b.rank);
    keyed(this.body, sorted.slice(0, MOST_ROWS), (member) => member.id, (member) => this.make(member.id), (row, member) => this.update(row, member));
    this.empty.hidden = sorted.length > 0;
    write(this.note, sorted.length > MOST_ROWS ? `The first ${MOST_ROWS} of ${format.count(sorted.length)}` : "");
  }

  make(id) {
    const cells = COLUMNS.map((column) => html(column.row ? "th" : "td", { class: column.number ? "number" : null, scope: column.row ? "row" : null }, html("span")));
    const row = html("tr", { tabindex: 0 }, ...cells);
    const choose = () => this.select(this.selected === id ? null : id);
    row.addEventListener("click", choose);
    row.addEventListener("keydown", (event) => {
      if (event.key === "Enter") choose();
    });
    return row;
  }

  update(row, member) {
    const finding = this.model.sick.members.get(member.id);
    set(row, {
      class: finding ? "sick" : null,
      "aria-selected": this.selected === member.id ? "true" : null,
      title: finding ? format.short(`${finding.syndrome}: ${finding.evidence}`, 400) : null,
    });
    COLUMNS.forEach((column, index) => {
      const span = row.cells[index].firstChild;
      const told = column.text(member, this.snapshot);
      write(span, format.short(told, column.row ? 40 : 80));
      if (column.row || column.name === "Host") set(row.cells[index], { title: told.length > 24 ? format.short(told, 200) : null });
      if (column.state) set(span, { class: `state state-${STATES.includes(member.state) ? member.state : "unknown"}` });
    });
  }
}

function compare(a, b) {
  return typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
}
