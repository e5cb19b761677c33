// One figure of the whole group over the last ten minutes.

import { keyed, set, svg, write } from "./elements.js";
import * as format from "./format.js";
import { LEFT, niceAbove, RIGHT, TimeScale } from "./timescale.js";

const HEIGHT = 122;
const TOP = 8;
const BOTTOM = 8;
const BREAK = 3; // seconds without a figure, after which the line is interrupted

export class Chart {
  /** `least`: where the scale ends when there is hardly anything. */
  constructor(figure, tip, name, field, least, text) {
    Object.assign(this, { figure, tip, name, field, least, text, rows: [], cursor: null });
    this.svg = svg("svg", { class: "chart", role: "img", tabindex: 0, height: HEIGHT });
    this.grid = svg("g", { class: "grid" });
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.mark = svg("g", { class: "cursor", visibility: "hidden" }, svg("line"), svg("circle", { r: 4 }));
    this.svg.append(this.grid, this.area, this.line, this.mark);
    figure.append(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.svg.addEventListener("blur", () => this.leave());
    this.svg.addEventListener("keydown", (event) => this.step(event));
    new ResizeObserver(() => this.draw()).observe(figure);
  }

  render(snapshot) {
    const value = (row) => row[this.field];
    this.rows = snapshot.history.filter((row) => typeof value(row) === "number" && snapshot.at - row.at <= 600);
    this.now = snapshot.at;
    this.draw();
  }

  draw() {
    const width = this.figure.clientWidth;
    if (!this.now || width === 0) return;
    const scale = new TimeScale(this.now, width);
    const most = niceAbove(this.rows.reduce((high, row) => Math.max(high, row[this.field]), this.least));
    const y = (value) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
    Object.assign(this, { scale, y });
    set(this.svg, { viewBox: `0 0 ${width} ${HEIGHT}`, width, "aria-label": this.label() });
    this.drawGrid(width, most);
    const runs = this.runs();
    const points = (run) => run.map((row) => `${scale.x(row.at).toFixed(1)} ${y(row[this.field]).toFixed(1)}`);
    set(this.line, { d: runs.map((run) => `M${points(run).join("L")}`).join("") });
    const ground = y(0).toFixed(1);
    const closed = (run) =>
      `M${scale.x(run[0].at).toFixed(1)} ${ground}L${points(run).join("L")}L${scale.x(run[run.length - 1].at).toFixed(1)} ${ground}Z`;
    set(this.area, { d: runs.map(closed).join("") });
    this.drawCursor();
  }

  runs() {
    const found = [];
    let last = null;
    for (const row of this.rows) {
      if (last === null || row.at - last > BREAK) found.push([]);
      found[found.length - 1].push(row);
      last = row.at;
    }
    return found;
  }

  drawGrid(width, most) {
    const levels = [0, 0.5, 1].map((share) => share * most);
    const lines = [
      ...levels.map((value) => ({ key: `y${value}`, x1: LEFT, x2: width - RIGHT, y1: this.y(value), y2: this.y(value) })),
      ...this.scale.ticks().map((at) => ({ key: `x${at}`, x1: this.scale.x(at), x2: this.scale.x(at), y1: TOP, y2: HEIGHT - BOTTOM })),
    ];
    this.lines ??= this.grid.appendChild(svg("g"));
    this.labels ??= this.grid.appendChild(svg("g"));
    keyed(this.lines, lines, (line) => line.key, () => svg("line"), (line, { key, ...ends }) => set(line, ends));
    keyed(this.labels, levels, (value) => value, () => svg("text", { "text-anchor": "end" }), (text, value) => {
      set(text, { x: LEFT - 8, y: this.y(value) + 4 });
      write(text, value === 0 ? "0" : this.text(value));
    });
  }

  label() {
    const last = this.rows[this.rows.length - 1];
    if (!last) return `${this.name}: nothing yet`;
    const values = this.rows.map((row) => row[this.field]);
    const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    return `${this.name}: ${this.text(last[this.field])} now, ${this.text(low)} to ${this.text(high)} in the last ten minutes`;
  }

  point(event) {
    const at = this.scale?.at(event.clientX - this.svg.getBoundingClientRect().left);
    const near = this.nearest(at);
    if (near) this.look(near, event.clientX, event.clientY);
  }

  step(event) {
    const by = { ArrowLeft: -5, ArrowRight: 5 }[event.key];
    if (!by || this.rows.length === 0) return;
    event.preventDefault();
    const near = this.nearest((this.cursor ?? this.now) + by);
    const box = this.svg.getBoundingClientRect();
    this.look(near, box.left + this.scale.x(near.at), box.top + TOP);
  }

  nearest(at) {
    return this.rows.reduce((best, row) => (best && Math.abs(best.at - at) <= Math.abs(row.at - at) ? best : row), null);
  }

  look(row, x, y) {
    this.cursor = row.at;
    this.drawCursor();
    const rows = [[this.name, this.text(row[this.field])], ["members", format.count(row.members)]];
    this.tip.show(() => ({ title: format.time(row.at), rows }), x, y);
  }

  leave() {
    this.cursor = null;
    this.drawCursor();
    this.tip.hide();
  }

  drawCursor() {
    const row = this.cursor === null ? null : this.nearest(this.cursor);
    set(this.mark, { visibility: row ? null : "hidden" });
    if (!row) return;
    const x = this.scale.x(row.at);
    set(this.mark.children[0], { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM });
    set(this.mark.children[1], { cx: x, cy: this.y(row[this.field]) });
  }
}
