// What happened in the last ten minutes: views, who came and went, findings as long as they lasted, what was done.

import { html, keyed, set, svg, write } from "./elements.js";
import * as format from "./format.js";
import { culprit, isOpen, moment, sentence } from "./model.js";
import { LEFT, RIGHT, TimeScale, WINDOW } from "./timescale.js";

const LANE = 30;
const ROW = 9; // of findings that overlap
const FINDING_ROWS = 3;
const AXIS = 22;
const CLUSTER = 13; // pixels: marks that are nearer are one
const LANES = [
  { name: "views", kinds: ["view"], height: LANE },
  { name: "members", kinds: ["joined", "left", "died", "evicted", "rejected"], height: LANE },
  { name: "findings", kinds: [], height: FINDING_ROWS * (ROW + 3) + 12 },
  { name: "actions", kinds: ["action", "plan", "recovered"], height: LANE },
];
const GLYPHS = {
  view: "M0 -7L5 0L0 7L-5 0Z",
  joined: "M0 -6L6 5L-6 5Z",
  left: "M0 6L6 -5L-6 -5Z",
  died: "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
  evicted: "M-6 -2L6 -2L6 2L-6 2Z",
  rejected: "M-5 -5L5 -5L5 -2L-2 -2L-2 5L-5 5Z",
  finding: "M-6 -3L6 -3L6 3L-6 3Z",
  action: "M-5 -5L5 -5L5 5L-5 5Z",
  plan: "M-6 0A6 6 0 1 1 6 0A6 6 0 1 1 -6 0Z",
  recovered: "M-6 0L-3 -3L-1 -1L4 -6L6 -3L-1 5Z",
};

/** A kind of another version looks like none that is known. */
const shape = (kind) =>
  Object.hasOwn(GLYPHS, kind) ? { class: `glyph glyph-${kind}`, d: GLYPHS[kind] } : { class: "glyph", d: GLYPHS.plan };

export const glyph = (kind) => svg("path", shape(kind));

export class Timeline {
  constructor(figure, details, tip) {
    Object.assign(this, { figure, details, tip, pinned: null });
    this.height = LANES.reduce((sum, lane) => sum + lane.height, 0) + AXIS;
    this.svg = svg("svg", { class: "timeline", role: "group", "aria-label": "What happened in the last ten minutes", height: this.height });
    this.back = svg("g", { class: "grid" });
    this.ticks = svg("g", { class: "ticks" });
    this.bars = svg("g");
    this.marks = svg("g");
    this.svg.append(this.back, this.ticks, this.bars, this.marks);
    figure.append(this.svg);
    new ResizeObserver(() => this.draw()).observe(figure);
  }

  render(snapshot) {
    this.snapshot = snapshot;
    this.draw();
  }

  draw() {
    const width = this.figure.clientWidth;
    if (!this.snapshot?.at || width === 0) return;
    this.scale = new TimeScale(this.snapshot.at, width);
    set(this.svg, { viewBox: `0 0 ${width} ${this.height}`, width });
    this.drawLanes(width);
    this.drawFindings();
    this.drawMarks();
    this.tell();
  }

  drawLanes(width) {
    let top = 0;
    for (const lane of LANES) {
      lane.top = top;
      top += lane.height;
    }
    keyed(this.back, LANES, (lane) => lane.name, (lane) => svg("g", {}, svg("line"), svg("text", {}, lane.name)), (group, lane) => {
      const [line, text] = group.children;
      set(line, { x1: LEFT, x2: width - RIGHT, y1: lane.top + lane.height, y2: lane.top + lane.height });
      set(text, { x: LEFT - 8, y: lane.top + lane.height / 2 + 4, "text-anchor": "end" });
    });
    keyed(this.ticks, this.scale.ticks(), (at) => at, () => svg("g", {}, svg("line"), svg("text", { "text-anchor": "middle" })), (group, at) => {
      const [line, text] = group.children;
      const x = this.scale.x(at);
      set(line, { x1: x, x2: x, y1: 0, y2: top });
      set(text, { x: Math.min(x, width - RIGHT - 14), y: top + 15 });
      write(text, format.shortTime(at));
    });
  }

  drawFindings() {
    const lane = LANES[2];
    const ends = new Array(FINDING_ROWS).fill(-Infinity);
    const shown = this.snapshot.findings.filter((finding) => isOpen(finding) || finding.ended >= this.scale.from);
    const rows = shown.map((finding) => {
      const from = this.scale.x(finding.at);
      const to = Math.max(from + 5, this.scale.x(isOpen(finding) ? this.snapshot.at : finding.ended));
      const free = ends.findIndex((end) => end + 2 < from);
      const row = free < 0 ? FINDING_ROWS - 1 : free;
      ends[row] = Math.max(ends[row], to);
      return { finding, from, to, y: lane.top + 6 + row * (ROW + 3) };
    });
    keyed(this.bars, rows, (row) => row.finding.id, (row) => this.bar(row.finding.id), (rect, row) => {
      const open = isOpen(row.finding);
      set(rect, {
        x: row.from,
        y: row.y,
        width: row.to - row.from,
        height: ROW,
        rx: 3,
        class: `bar ${open ? "open" : "ended"}`,
        "aria-label": `${row.finding.syndrome}, ${culprit(row.finding)}, ${open ? "open" : "ended"}`,
      });
    });
  }

  bar(id) {
    const find = () => this.snapshot.findings.find((finding) => finding.id === id);
    const lines = () => {
      const finding = find();
      if (!finding) return [];
      const until = isOpen(finding) ? "and is open" : `until ${format.time(finding.ended)}`;
      return [
        { at: finding.at, kind: "finding", text: `${finding.syndrome}: ${culprit(finding)}, ${until}` },
        { at: finding.at, kind: "finding", text: finding.evidence },
      ];
    };
    return this.touchable(svg("rect", { tabindex: 0, role: "button" }), `f${id}`, lines);
  }

  drawMarks() {
    const clusters = [];
    for (const lane of LANES) {
      let last = null;
      for (const event of this.snapshot.events) {
        if (!lane.kinds.includes(event.kind) || event.at < this.scale.from) continue;
        const x = this.scale.x(event.at);
        if (last && x - last.x < CLUSTER) last.events.push(event);
        else clusters.push((last = { key: `${lane.name}${moment(event)}`, x, y: lane.top + lane.height / 2, events: [event] }));
      }
    }
    this.clusters = new Map(clusters.map((cluster) => [cluster.key, cluster]));
    keyed(this.marks, clusters, (cluster) => cluster.key, (cluster) => this.mark(cluster.key), (group, { x, y, events }) => {
      const worst = events.find((event) => event.kind === "died") ?? events[events.length - 1];
      set(group, {
        transform: `translate(${x.toFixed(1)} ${y})`,
        class: `mark${this.pinned?.key === group.dataset.key ? " pinned" : ""}`,
        "aria-label": events.map((event) => `${format.time(event.at)} ${format.short(sentence(event), 120)}`).join("; "),
      });
      set(group.querySelector(".glyph"), shape(worst.kind));
      write(group.querySelector("text"), events.length > 1 ? String(events.length) : "");
    });
  }

  mark(key) {
    const area = svg("rect", { class: "touch", x: -8, y: -13, width: 16, height: 26 });
    const group = svg("g", { tabindex: 0, role: "button", "data-key": key }, area, glyph("plan"), svg("text", { x: 7, y: -5 }));
    return this.touchable(group, key, () => this.clusters.get(key)?.events ?? []);
  }

  /** Pointer and focus tell, a click keeps it in the box below. */
  touchable(element, key, lines) {
    const rows = () => lines().slice(-6).map((event) => [format.time(event.at), format.short(sentence(event), 90)]);
    this.tip.attach(element, () => (lines().length ? { title: lines().length > 1 ? "What happened" : format.short(lines()[0].kind, 40), rows: rows() } : null));
    const pin = () => {
      this.pinned = this.pinned?.key === key ? null : { key, lines: lines() };
      this.draw();
    };
    element.addEventListener("click", pin);
    element.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      pin();
    });
    return element;
  }

  tell() {
    if (this.pinned) {
      const lines = this.pinned.lines.map((event) =>
        html("p", {}, html("time", {}, format.time(event.at)), " ", format.short(sentence(event), 400)),
      );
      if (this.told !== this.pinned) this.details.replaceChildren(...lines);
      this.told = this.pinned;
      return;
    }
    const earlier = this.snapshot.events.filter((event) => event.at < this.snapshot.at - WINDOW).length;
    const more = earlier ? ` ${earlier} earlier ${earlier === 1 ? "event is" : "events are"} in the list.` : "";
    if (this.told) this.details.replaceChildren();
    this.told = null;
    write(this.details, `Select a mark to keep what it tells here.${more}`);
  }
}
