// Findings and events in words.

import { html, keyed, set, svg, write } from "./elements.js";
import * as format from "./format.js";
import { culprit, isOpen, moment, sentence } from "./model.js";
import { glyph } from "./timeline.js";

const MOST_FINDINGS = 50;
const MOST_EVENTS = 200;
const MOST_TEXT = 400; // letters
const SHOWN_TEXT = 80;

export class Findings {
  constructor(panel, select) {
    this.list = panel.querySelector("ol");
    this.empty = panel.querySelector(".empty");
    this.select = select;
  }

  render(snapshot) {
    const newest = [...snapshot.findings].reverse();
    const sorted = [...newest.filter(isOpen), ...newest.filter((finding) => !isOpen(finding))].slice(0, MOST_FINDINGS);
    this.empty.hidden = sorted.length > 0;
    keyed(this.list, sorted, (finding) => finding.id, () => this.make(), (item, finding) => this.update(item, finding, snapshot));
  }

  make() {
    const part = (tag, name) => html(tag, { class: name });
    const head = html("h3", {}, part("span", "badge"), part("span", "culprit"));
    const meter = html("span", { class: "meter", role: "img" }, html("span"));
    const facts = html("p", { class: "facts" }, meter, part("span", "confidence"), part("span", "factor"), part("span", "operation"));
    return html("li", {}, head, part("p", "evidence"), facts, part("p", "action"), part("p", "when"));
  }

  update(item, finding, snapshot) {
    const open = isOpen(finding);
    const told = (name, text) => write(item.querySelector(`.${name}`), text);
    set(item, { class: open ? "open" : "ended" });
    told("badge", format.short(finding.syndrome, 40));
    told("culprit", culprit(finding));
    told("evidence", format.short(finding.evidence, MOST_TEXT));
    told("confidence", `${format.percent(finding.confidence)} sure`);
    set(item.querySelector(".meter"), { "aria-label": `confidence ${format.percent(finding.confidence)}` });
    item.querySelector(".meter span").style.width = `${Math.min(100, Math.max(0, (finding.confidence ?? 0) * 100))}%`;
    told("factor", finding.factor > 0 ? `${format.times(finding.factor)} as long as usual` : "");
    told("operation", Array.isArray(finding.since) ? `since operation ${format.count(finding.since[1])}` : "");
    told("action", finding.action ? `Done: ${format.short(finding.action, MOST_TEXT)}` : open ? "Nothing was done about it." : "");
    const lasted = open ? `open for ${format.span(snapshot.at - finding.at)}` : `lasted ${format.span(finding.ended - finding.at)}`;
    told("when", `${format.time(finding.at)}, ${lasted}${open ? "" : `, over at ${format.time(finding.ended)}`}`);
  }
}

export class Events {
  constructor(panel) {
    this.list = panel.querySelector("ol");
    this.empty = panel.querySelector(".empty");
  }

  render(snapshot) {
    const newest = snapshot.events.slice(-MOST_EVENTS).reverse();
    this.empty.hidden = newest.length > 0;
    const seen = new Map(); // several may come in one instant, and even say the same
    const rows = newest.map((event) => {
      const text = `${moment(event)} ${event.kind} ${sentence(event)}`;
      seen.set(text, (seen.get(text) ?? 0) + 1);
      return { event, key: `${text} ${seen.get(text)}` };
    });
    keyed(this.list, rows, (row) => row.key, ({ event }) => this.make(event), () => {});
  }

  make(event) {
    const sign = svg("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, "aria-hidden": "true" }, glyph(event.kind));
    const said = format.short(sentence(event), MOST_TEXT);
    const text = html("span", { class: "text", title: said.length > SHOWN_TEXT ? said : null }, said); // two lines of it are shown
    return html("li", {}, html("time", {}, format.time(event.at)), sign, html("span", { class: "kind" }, format.short(event.kind, 12)), text);
  }
}
