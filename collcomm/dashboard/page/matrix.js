// The delay matrix: what was measured from each member (rows) to each other (columns), as a heat map.

import { ramp, rampStops, scale, styled } from "./colours.js";
import { write } from "./elements.js";
import * as format from "./format.js";

const MEASURES = {
  latency: { worst: "high", value: (link) => link.latency, text: format.span },
  bandwidth: { worst: "low", value: (link) => link.bandwidth, text: format.rate },
};
const TOP = 22; // pixels for the ranks of columns
const EDGE = 8; // beyond the last cell, for its label
const NAMED = 24; // nodes, up to which rows bear names
const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export class Matrix {
  constructor(panel, tip) {
    this.tip = tip;
    this.measure = "latency";
    this.cell = null; // [row, column] under the keyboard's cursor or the pointer
    this.canvas = panel.querySelector("canvas");
    this.frame = this.canvas.parentElement;
    this.legend = panel.querySelector(".legend");
    this.empty = panel.querySelector(".empty");
    this.spoken = panel.querySelector(".spoken[role=status]");
    for (const button of panel.querySelectorAll("input[name=measure]")) {
      button.addEventListener("change", () => {
        this.measure = button.value;
        this.draw();
      });
    }
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.leave());
    this.canvas.addEventListener("blur", () => this.leave());
    this.canvas.addEventListener("keydown", (event) => this.step(event));
    new ResizeObserver(() => this.draw()).observe(this.frame);
  }

  render(snapshot, model, selected) {
    Object.assign(this, { snapshot, model, selected });
    this.draw();
  }

  draw() {
    if (!this.model) return;
    const nodes = this.model.place.sorted;
    const { links } = this.model;
    const by = MEASURES[this.measure];
    this.scale = scale([...links.values()].map(by.value), by.worst);
    const nothing = this.scale === null;
    this.empty.hidden = !nothing;
    this.canvas.hidden = this.legend.hidden = nothing;
    write(this.empty, nodes.length < 2 ? "A link needs two members." : "Nothing has been measured yet.");
    if (nothing) return;
    this.fit(nodes.length);
    this.paint(nodes, links, by);
    this.drawLegend(by);
    const { low, high } = this.scale;
    this.canvas.setAttribute(
      "aria-label",
      `${this.measure} from each member to each other, ${by.text(low)} to ${by.text(high)}; arrow keys move from cell to cell`,
    );
  }

  fit(count) {
    const { clientWidth: width, clientHeight: height } = this.frame;
    this.left = count <= NAMED ? 116 : 30;
    const size = Math.max(1, Math.min(width - this.left - EDGE, height - TOP - EDGE));
    this.side = size / count;
    const dots = devicePixelRatio || 1;
    const [wide, high] = [Math.round((this.left + size + EDGE) * dots), Math.round((TOP + size + EDGE) * dots)];
    if (this.canvas.width !== wide || this.canvas.height !== high) {
      Object.assign(this.canvas, { width: wide, height: high });
      this.canvas.style.width = `${this.left + size + EDGE}px`;
      this.canvas.style.height = `${TOP + size + EDGE}px`;
    }
    this.dots = dots;
  }

  paint(nodes, links, by) {
    const pen = this.canvas.getContext("2d");
    pen.setTransform(this.dots, 0, 0, this.dots, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const gap = this.side > 8 ? 1.5 : this.side > 4 ? 0.5 : 0;
    const [unknown, bad, ink] = [styled("--line"), styled("--bad"), styled("--ink")];
    const cell = (row, column) => [this.left + column * this.side, TOP + row * this.side, this.side - gap, this.side - gap];
    nodes.forEach((from, row) =>
      nodes.forEach((to, column) => {
        if (row === column) return;
        const link = links.get(`${from.key}>${to.key}`);
        const value = link ? by.value(link) : null;
        if (typeof value === "number") {
          pen.fillStyle = ramp(this.scale.share(value));
          pen.fillRect(...cell(row, column));
        } else {
          pen.fillStyle = unknown;
          const [x, y, size] = cell(row, column);
          pen.fillRect(x + size * 0.4, y + size * 0.4, Math.max(1, size * 0.2), Math.max(1, size * 0.2));
        }
        if (link?.finding) this.outline(pen, cell(row, column), bad, 2.5);
      }),
    );
    this.label(pen, nodes);
    if (this.cell) this.outline(pen, cell(...this.cell), ink, 2);
  }

  outline(pen, [x, y, width, height], colour, thick) {
    pen.strokeStyle = colour;
    pen.lineWidth = thick;
    pen.strokeRect(x + thick / 2 - 1, y + thick / 2 - 1, width - thick + 2, height - thick + 2);
  }

  label(pen, nodes) {
    const family = getComputedStyle(document.body).fontFamily;
    pen.textBaseline = "middle";
    const chosen = this.selected === null ? null : this.model.nodeOf.get(this.selected);
    const each = Math.ceil(15 / this.side); // labels that would touch are left out
    nodes.forEach((node, index) => {
      const lit = node === chosen || this.cell?.includes(index);
      if (index % each !== 0 && !lit) return;
      pen.fillStyle = styled(lit ? "--ink" : "--muted");
      pen.font = `${lit ? 600 : 400} 11px ${family}`;
      const middle = (index + 0.5) * this.side;
      const number = node.members.length === 1 ? String(node.members[0].rank) : String(index + 1);
      const named = this.left > 100;
      pen.textAlign = "right";
      pen.fillText(named ? `${format.short(node.label, 13)}  ${number}` : number, this.left - 6, TOP + middle);
      pen.textAlign = "center";
      pen.fillText(number, this.left + middle, TOP / 2);
    });
  }

  drawLegend(by) {
    const stops = rampStops();
    this.legend.querySelectorAll("stop").forEach((stop, index) => {
      stop.style.stopColor = stops[index];
    });
    const [best, middle, worst] = this.legend.querySelectorAll(".bound");
    write(best, by.text(this.scale.at(0)));
    write(middle, by.text(this.scale.at(0.5)));
    write(worst, by.text(this.scale.at(1)));
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - box.left - this.left) / this.side);
    const row = Math.floor((event.clientY - box.top - TOP) / this.side);
    const count = this.model.nodes.length;
    if (column < 0 || row < 0 || column >= count || row >= count) return this.leave();
    this.move([row, column]);
    this.tip.show(() => this.tell(), event.clientX, event.clientY);
  }

  step(event) {
    const step = STEPS[event.key];
    if (!step || !this.model || this.scale === null) return;
    event.preventDefault();
    const last = this.model.nodes.length - 1;
    const kept = (value) => Math.min(last, Math.max(0, value));
    this.move(this.cell ? [kept(this.cell[0] + step[0]), kept(this.cell[1] + step[1])] : [0, Math.min(1, last)]);
    const box = this.canvas.getBoundingClientRect();
    const [row, column] = this.cell;
    this.tip.show(() => this.tell(), box.left + this.left + (column + 0.5) * this.side, box.top + TOP + (row + 0.5) * this.side);
    const told = this.tell();
    if (told) write(this.spoken, [told.title, ...told.rows.map((row) => row.join(" "))].join(", "));
  }

  move(cell) {
    if (this.cell && cell && this.cell[0] === cell[0] && this.cell[1] === cell[1]) return;
    this.cell = cell;
    this.draw();
  }

  leave() {
    if (this.cell === null) return;
    this.move(null);
    this.tip.hide();
  }

  tell() {
    const nodes = this.model.place.sorted;
    if (!this.cell || this.cell.some((index) => index >= nodes.length)) return null;
    const [from, to] = this.cell.map((index) => nodes[index]);
    const title = `${format.short(from.label, 20)} → ${format.short(to.label, 20)}`;
    if (from === to) return { title: format.short(from.label, 40), rows: [], note: "itself" };
    const [there, back] = [this.model.links.get(`${from.key}>${to.key}`), this.model.links.get(`${to.key}>${from.key}`)];
    if (!there?.rows.length) return { title, rows: [], note: "not measured" };
    const rows = [
      ["latency", format.span(there.latency)],
      ["bandwidth", format.rate(there.bandwidth)],
      ["measured", format.ago(there.age)],
    ];
    if (back?.rows.length) rows.push(["back", `${format.span(back.latency)}, ${format.rate(back.bandwidth)}`]);
    return { title, rows, note: there.finding ? there.finding.syndrome : "" };
  }
}
