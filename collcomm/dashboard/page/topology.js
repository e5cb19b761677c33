// The members on a circle, the links that were measured between them, and the ring on which data travels now.

import { ramp, scale, siteColour } from "./colours.js";
import { keyed, set, svg, write } from "./elements.js";
import * as format from "./format.js";
import { arc, chord, round } from "./layout.js";
import { nameOf } from "./model.js";

const WIDTH = 720;
const HEIGHT = 560;
const CENTRE = { x: WIDTH / 2, y: HEIGHT / 2 };
const RADIUS = 205;
const MOST_CHORDS = 20; // nodes, up to which all their links are drawn; of more, those of the one that is looked at
const NODE = { few: 17, many: 9 };
const CHEVRON = "M-4.5 -5L4.5 0L-4.5 5L-2 0Z";

export class Topology {
  constructor(figure, tip, select) {
    this.tip = tip;
    this.select = select;
    this.looked = null; // key of the node that is pointed at
    this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": "Members and links" });
    this.layers = {};
    for (const name of ["hosts", "sites", "titles", "links", "halo", "ring", "chevrons", "hits", "nodes"]) {
      this.layers[name] = svg("g", { class: `layer-${name}` });
      this.svg.append(this.layers[name]);
    }
    figure.append(this.svg);
    this.legend = figure.querySelector(".legend");
    this.note = figure.querySelector(".note");
  }

  render(snapshot, model, selected) {
    Object.assign(this, { snapshot, model, selected });
    const { nodes, links, place } = model;
    this.place = place;
    this.few = nodes.length <= MOST_CHORDS;
    this.scale = scale([...links.values()].map((link) => link.bandwidth), "low");
    this.drawArcs();
    this.drawLinks();
    this.drawNodes();
    this.describe();
  }

  drawArcs() {
    const { sites, hosts, step } = this.place;
    const half = step * 0.42;
    const known = sites.filter((site) => site.name !== null);
    keyed(
      this.layers.hosts,
      hosts,
      (host) => `${host.name} ${host.from}`,
      () => svg("path", { class: "host" }),
      (path, host) => set(path, { d: arc(RADIUS, host.from, host.to + 0.0001, CENTRE), "stroke-width": this.size() * 2 + 8 }),
    );
    keyed(
      this.layers.sites,
      known,
      (site) => `${site.name} ${site.from}`,
      () => svg("path", { class: "site" }),
      (path, site) => {
        path.style.stroke = siteColour(this.model.sites.indexOf(site.name));
        set(path, { d: arc(RADIUS + this.size() + 9, site.from - half, site.to + half, CENTRE) });
      },
    );
    keyed(
      this.layers.titles,
      known,
      (site) => `${site.name} ${site.from}`,
      (site) => this.makeTitle(site),
      (group, site) => {
        const under = Math.sin((site.from + site.to) / 2) > 0; // so that nobody has to read upside down
        const radius = RADIUS + this.size() + (under ? 29 : 18);
        const room = Math.PI / 3; // for the name, where its members stand close together
        const middle = (site.from + site.to) / 2;
        const span = Math.max(half + (site.to - site.from) / 2, room);
        const [path, text] = group.children;
        set(path, { d: arc(radius, middle - span, middle + span, CENTRE, under) });
        text.style.fill = siteColour(this.model.sites.indexOf(site.name));
        write(text.firstChild, format.short(site.name, 20));
      },
    );
  }

  makeTitle(site) {
    const id = `site-path-${(this.paths = (this.paths ?? 0) + 1)}`;
    const along = svg("textPath", { href: `#${id}`, startOffset: "50%" });
    return svg("g", { "data-site": site.name }, svg("path", { id, fill: "none" }), svg("text", { class: "site-title" }, along));
  }

  size() {
    return this.few ? NODE.few : NODE.many;
  }

  /** One line for both directions, as wide as the slower of them. */
  drawLinks() {
    const { links, ring, nodes } = this.model;
    const index = new Map(nodes.map((node, number) => [node.key, number]));
    const pairs = new Map();
    for (const link of [...links.values(), ...ring.values()]) {
      const [a, b] = index.get(link.from.key) < index.get(link.to.key) ? [link.from, link.to] : [link.to, link.from];
      const key = `${a.key}>${b.key}`;
      if (pairs.has(key)) continue;
      const [there, back] = [links.get(key) ?? null, links.get(`${b.key}>${a.key}`) ?? null];
      const onRing = ring.has(key) || ring.has(`${b.key}>${a.key}`);
      const finding = there?.finding ?? back?.finding ?? null;
      const slowest = [there?.bandwidth, back?.bandwidth].filter((value) => typeof value === "number");
      pairs.set(key, { key, a, b, there, back, onRing, finding, bandwidth: slowest.length ? Math.min(...slowest) : null });
    }
    const looked = this.looked ?? this.selectedNode();
    const touches = (pair) => pair.a.key === looked || pair.b.key === looked;
    const shown = [...pairs.values()].filter((pair) => this.few || pair.onRing || pair.finding || touches(pair));
    shown.sort((x, y) => Number(Boolean(x.finding)) - Number(Boolean(y.finding)) || (x.bandwidth ?? 0) - (y.bandwidth ?? 0));
    this.pairs = pairs;
    const curve = (pair) => chord(pair.a, pair.b, RADIUS, CENTRE);
    keyed(
      this.layers.links,
      shown,
      (pair) => pair.key,
      () => svg("path", { class: "link" }),
      (path, pair) => {
        const share = this.scale && pair.bandwidth ? this.scale.share(pair.bandwidth) : null;
        path.style.stroke = pair.finding || share === null ? "" : ramp(0.15 + 0.85 * (1 - share));
        const kind = ["link", pair.finding && "sick", pair.onRing && "on-ring", looked && !touches(pair) && "faint"];
        set(path, {
          d: curve(pair).path,
          class: kind.filter(Boolean).join(" "),
          "stroke-width": share === null ? 1 : round((this.few ? 1 : 0.8) + (this.few ? 4 : 2.2) * (1 - share)),
        });
      },
    );
    this.drawRing(looked);
    keyed(this.layers.hits, shown, (pair) => pair.key, (pair) => this.hit(pair.key), (path, pair) => set(path, { d: curve(pair).path }));
  }

  drawRing(looked) {
    const steps = this.snapshot.planned || this.model.nodes.length > 1 ? [...this.model.ring.values()] : [];
    const key = (step) => `${step.from.key}>${step.to.key}`;
    const faint = (step) => looked && step.from.key !== looked && step.to.key !== looked;
    const curve = (step) => chord(step.from, step.to, RADIUS, CENTRE);
    keyed(this.layers.halo, steps, key, () => svg("path"), (path, step) =>
      set(path, { d: curve(step).path, class: faint(step) ? "faint" : null, "stroke-width": this.few ? 11 : 6 }),
    );
    keyed(this.layers.chevrons, steps, key, () => svg("path", { d: CHEVRON }), (path, step) => {
      const { middle, turn } = curve(step);
      const small = this.few ? 1.35 : 0.8;
      set(path, {
        transform: `translate(${round(middle.x)} ${round(middle.y)}) rotate(${round(turn)}) scale(${small})`,
        class: faint(step) ? "faint" : null,
      });
    });
  }

  hit(key) {
    const path = svg("path", { class: "hit" });
    this.tip.attach(path, () => this.tellLink(key));
    return path;
  }

  drawNodes() {
    const { members: sick } = this.model.sick;
    const selected = this.selectedNode();
    keyed(this.layers.nodes, this.place.sorted, (node) => node.key, (node) => this.makeNode(node.key), (group, node) => {
      const blamed = node.members.find((member) => sick.has(member.id));
      const states = new Set(node.members.map((member) => member.state));
      const state = states.has("silent") ? "silent" : states.size === 1 ? [...states][0] : "mixed";
      const kind = ["node", `state-${state ?? "unknown"}`, blamed && "sick", node.key === selected && "selected"];
      const [x, y] = [round(CENTRE.x + RADIUS * node.x), round(CENTRE.y + RADIUS * node.y)];
      set(group, { class: kind.filter(Boolean).join(" "), "aria-label": this.label(node, blamed, state) });
      const [circle, rank, badge, name] = group.children;
      set(circle, { cx: x, cy: y, r: this.size() });
      set(rank, { x, y, "font-size": this.few ? 13 : 8.5 });
      write(rank, node.members.length === 1 ? String(node.members[0].rank) : `${node.members.length}`);
      set(badge, { transform: `translate(${round(x + this.size() * 0.75)} ${round(y - this.size() * 0.75)})` });
      this.placeName(name, node);
    });
  }

  makeNode(key) {
    const badge = svg("g", { class: "badge" }, svg("circle", { r: 7 }), svg("text", {}, "!"));
    const group = svg("g", { tabindex: 0, role: "button" }, svg("circle"), svg("text", { class: "rank" }), badge, svg("text", { class: "name" }));
    this.tip.attach(group, () => this.tellNode(key));
    const look = (looked) => {
      if (this.looked === looked) return;
      this.looked = looked;
      this.drawLinks();
    };
    group.addEventListener("pointerenter", () => look(key));
    group.addEventListener("pointerleave", () => look(null));
    group.addEventListener("focus", () => group.matches(":focus-visible") && look(key));
    group.addEventListener("blur", () => look(null));
    const choose = () => {
      const member = this.model.nodes.find((node) => node.key === key)?.members[0].id ?? null;
      this.select(member !== null && this.selectedNode() === key ? null : member);
    };
    group.addEventListener("click", choose);
    group.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        choose();
      }
    });
    return group;
  }

  placeName(text, node) {
    const far = RADIUS + this.size() + (this.model.sites.length ? 32 : 10);
    const [x, y] = [CENTRE.x + far * node.x, CENTRE.y + far * node.y];
    const left = node.x < -0.001;
    if (this.few) {
      const middle = Math.abs(node.x) < 0.2;
      set(text, { x: round(x), y: round(y), transform: null, "text-anchor": middle ? "middle" : left ? "end" : "start", "font-size": 13 });
      write(text, format.short(node.label, 15));
    } else {
      const turn = (node.angle * 180) / Math.PI + (left ? 180 : 0);
      set(text, {
        x: 0,
        y: 0,
        transform: `translate(${round(x)} ${round(y)}) rotate(${round(turn)})`,
        "text-anchor": left ? "end" : "start",
        "font-size": 9.5,
      });
      write(text, format.short(node.label, 12));
    }
  }

  selectedNode() {
    return this.selected === null ? null : this.model.nodeOf.get(this.selected)?.key ?? null;
  }

  label(node, blamed, state) {
    const who = node.members.length === 1 ? `${node.label}, rank ${node.members[0].rank}` : `${node.label}, ${node.members.length} members`;
    return `${who}, ${state ?? "state unknown"}${blamed ? `, ${this.model.sick.members.get(blamed.id).syndrome}` : ""}`;
  }

  describe() {
    const { kind, nodes } = this.model;
    const of = { host: "a node is a host", site: "a node is a site", block: "a node is a block of ranks" }[kind];
    const more = this.few ? null : "links of a member: point at it";
    write(this.note, [of && `${this.snapshot.members.length} members: ${of}`, more].filter(Boolean).join("; "));
    const scaled = nodes.length > 1 ? this.scale : null;
    this.legend.hidden = scaled === null;
    if (scaled === null) return;
    const [thin, wide] = this.legend.querySelectorAll(".bound");
    write(thin, format.rate(scaled.low));
    write(wide, format.rate(scaled.high));
    this.legend.querySelectorAll(".wedge stop").forEach((stop, number) => {
      stop.style.stopColor = ramp(0.15 + 0.85 * number);
    });
  }

  tellLink(key) {
    const pair = this.pairs.get(key);
    if (!pair) return null;
    const rows = [];
    for (const [link, from, to] of [[pair.there, pair.a, pair.b], [pair.back, pair.b, pair.a]]) {
      const way = `${format.short(from.label)} → ${format.short(to.label)}`;
      rows.push([way, link?.rows.length ? `${format.rate(link.bandwidth)}, ${format.span(link.latency)}` : "not measured"]);
      const now = this.model.now.get(`${from.key}>${to.key}`);
      if (now) rows.push(["now", `${format.rate(now.sent)}, ${format.percent(now.busy)} of the time`]);
    }
    const measured = pair.there ?? pair.back;
    if (measured?.rows.length) rows.push(["measured", `${format.ago(measured.age)}, ${measured.streams ?? format.UNKNOWN} streams`]);
    const title = pair.onRing ? "A link of the ring" : "A link";
    return { title, rows, note: pair.finding ? `${pair.finding.syndrome}: ${pair.finding.evidence}` : "" };
  }

  tellNode(key) {
    const node = this.model.nodes.find((found) => found.key === key);
    if (!node) return null;
    const blamed = node.members.map((member) => this.model.sick.members.get(member.id)).find(Boolean);
    const note = blamed ? `${blamed.syndrome}: ${blamed.evidence}` : "";
    if (node.members.length > 1) {
      const names = node.members.slice(0, 8).map((member) => format.short(member.name, 20)).join(", ");
      return { title: format.short(node.label, 40), rows: [["members", String(node.members.length)], ["site", node.site ?? format.UNKNOWN]], note: note || names };
    }
    const [member] = node.members;
    const waiting = (member.operation?.waiting_on ?? []).map((id) => format.short(nameOf(this.snapshot, id), 20));
    const rows = [
      ["rank", String(member.rank)],
      ["host", `${member.host ?? format.UNKNOWN}${member.site ? `, ${member.site}` : ""}`],
      ["state", member.state ?? format.UNKNOWN],
      ["sends", format.rate(member.sent)],
      ["receives", format.rate(member.received)],
    ];
    if (waiting.length) rows.push(["waits for", waiting.slice(0, 4).join(", ")]);
    return { title: format.short(member.name, 40), rows, note };
  }
}
