// The members on a circle, the links that were measured between them, and the ring on which data travels now.

import { ramp, scale, siteColour } from "./colours.js";
import { keyed, set, svg, write } from "./elements.js";
import * as format from "./format.js";
import { arc, chord, round } from "./layout.js";
import { linksBetween, nameOf, STATES } from "./model.js";

const WIDTH = 720;
const HEIGHT = 560;
const CENTRE = { x: WIDTH / 2, y: HEIGHT / 2 };
const RADIUS = { few: 205, many: 172 }; // names of many stand upright on the circle, and need the room
const MOST_CHORDS = 20; // nodes, up to which all their links are drawn; of more, those of the one that is looked at
const NODE = { few: 17, many: 9 };
// from a node to its name: with and without names of sites between; more, right under one
const NAMES = { sites: 37, alone: 10, under: 15 };
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
    this.empty = figure.querySelector(".empty");
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
      (path, host) => set(path, { d: arc(this.radius(), host.from, host.to + 0.0001, CENTRE), "stroke-width": this.size() * 2 + 8 }),
    );
    keyed(
      this.layers.sites,
      known,
      (site) => `${site.name} ${site.from}`,
      () => svg("path", { class: "site" }),
      (path, site) => {
        path.style.stroke = siteColour(this.model.sites.indexOf(site.name));
        set(path, { d: arc(this.radius() + this.size() + 9, site.from - half, site.to + half, CENTRE) });
      },
    );
    keyed(
      this.layers.titles,
      known,
      (site) => `${site.name} ${site.from}`,
      (site) => this.makeTitle(site),
      (group, site) => {
        const middle = site.title;
        const under = Math.sin(middle) > 0; // so that nobody has to read upside down
        const radius = this.radius() + this.size() + (under ? 29 : 18);
        const room = Math.PI / 3; // for the name, where its members stand close together
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
    const touching = (this.radius() * this.place.step) / 2;
    return round(Math.min(this.few ? NODE.few : NODE.many, touching * 0.94));
  }

  radius() {
    return this.few ? RADIUS.few : RADIUS.many;
  }

  drawLinks() {
    const looked = this.looked ?? this.selectedNode();
    const touches = (pair) => pair.a.key === looked || pair.b.key === looked;
    this.pairs = new Map([...this.nodePairs(), ...(this.few ? [] : this.sitePairs())].map((pair) => [pair.key, pair]));
    const shown = [...this.pairs.values()].filter((pair) => this.few || pair.sites || pair.onRing || pair.finding || touches(pair));
    shown.sort((x, y) => Number(Boolean(x.finding)) - Number(Boolean(y.finding)) || (x.bandwidth ?? 0) - (y.bandwidth ?? 0));
    const curve = (pair) => chord(pair.a, pair.b, this.radius(), CENTRE).path;
    keyed(this.layers.links, shown, (pair) => pair.key, () => svg("path"), (path, pair) => {
      const share = this.scale && pair.bandwidth ? this.scale.share(pair.bandwidth) : null;
      const kind = ["link", pair.finding && "sick", pair.onRing && "on-ring", looked && !touches(pair) && "faint"];
      const [thin, wider] = pair.sites ? [2, 7] : this.few ? [1, 4] : [0.8, 2.2];
      path.style.stroke = pair.finding || share === null ? "" : ramp(0.3 + 0.7 * (1 - share));
      set(path, {
        d: curve(pair),
        class: kind.filter(Boolean).join(" "),
        "stroke-width": share === null ? 1 : round(thin + wider * (1 - share)),
      });
    });
    this.drawRing(looked);
    keyed(this.layers.hits, shown, (pair) => pair.key, (pair) => this.hit(pair.key), (path, pair) => set(path, { d: curve(pair) }));
  }

  /** One line for both directions, as wide as the slower of them. */
  nodePairs() {
    const { links, ring, nodes } = this.model;
    const index = new Map(nodes.map((node, number) => [node.key, number]));
    const pairs = new Map();
    for (const link of [...links.values(), ...ring.values()]) {
      const [a, b] = index.get(link.from.key) < index.get(link.to.key) ? [link.from, link.to] : [link.to, link.from];
      const key = `${a.key}>${b.key}`;
      if (!pairs.has(key)) pairs.set(key, this.pair(key, a, b, links, ring));
    }
    return pairs.values();
  }

  /** Among many nodes: what lies between their sites, as the median of what was measured. */
  sitePairs() {
    const between = linksBetween(this.model.links.values(), (node) => node.site);
    const ends = this.place.sites.filter((site) => site.name !== null).map((site) => {
      const angle = (site.from + site.to) / 2;
      return { key: String(site.name), label: String(site.name), x: Math.cos(angle) * 0.86, y: Math.sin(angle) * 0.86 };
    });
    const pairs = [];
    ends.forEach((a, number) =>
      ends.slice(number + 1).forEach((b) => {
        const pair = this.pair(`${a.key}>${b.key}`, a, b, between, new Map());
        if (pair.bandwidth !== null) pairs.push({ ...pair, key: `sites ${pair.key}`, sites: true, finding: null });
      }),
    );
    return pairs;
  }

  pair(key, a, b, links, ring) {
    const back = `${b.key}>${a.key}`;
    const both = [links.get(key) ?? null, links.get(back) ?? null];
    const known = both.map((link) => link?.bandwidth).filter((value) => typeof value === "number");
    const bandwidth = known.length ? Math.min(...known) : null;
    const finding = both[0]?.finding ?? both[1]?.finding ?? null;
    return { key, a, b, there: both[0], back: both[1], onRing: ring.has(key) || ring.has(back), finding, bandwidth };
  }

  drawRing(looked) {
    const steps = [...this.model.ring.values()];
    const key = (step) => `${step.from.key}>${step.to.key}`;
    const faint = (step) => looked && step.from.key !== looked && step.to.key !== looked;
    const back = (step) => this.model.ring.has(`${step.to.key}>${step.from.key}`); // a ring of two goes there and back
    const curve = (step) => chord(step.from, step.to, this.radius(), CENTRE, back(step) ? 0.08 : 0);
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
      const state = states.has("silent") ? "silent" : states.size === 1 ? format.short([...states][0] ?? "unknown", 20) : "mixed";
      const kind = ["node", `state-${STATES.includes(state) ? state : "unknown"}`, blamed && "sick", node.key === selected && "selected", !this.few && "small"];
      const [x, y] = [round(CENTRE.x + this.radius() * node.x), round(CENTRE.y + this.radius() * node.y)];
      set(group, { class: kind.filter(Boolean).join(" "), "aria-label": this.label(node, blamed, state) });
      const [circle, rank, badge, name] = group.children;
      set(circle, { cx: x, cy: y, r: this.size() });
      set(rank, { x, y });
      rank.style.fontSize = `${this.few ? 13 : round(this.size() * 1.05)}px`;
      write(rank, node.members.length === 1 ? String(node.members[0].rank) : `${node.members.length}`);
      set(badge, { transform: `translate(${round(x + this.size() * 0.75)} ${round(y - this.size() * 0.75)}) scale(${this.few ? 1 : 0.6})` });
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
    const far = this.radius() + this.size() + (this.model.sites.length ? NAMES.sites : NAMES.alone);
    const under = this.place.sites.some((site) => site.name !== null && site.title === node.angle) ? NAMES.under : 0;
    const [x, y] = [CENTRE.x + (far + under) * node.x, CENTRE.y + (far + under) * node.y];
    const left = node.x < -0.001;
    text.style.fontSize = this.few ? "13px" : "9.5px";
    if (this.few) {
      const middle = Math.abs(node.x) < 0.2;
      set(text, { x: round(x), y: round(y), transform: null, "text-anchor": middle ? "middle" : left ? "end" : "start" });
      write(text, format.short(node.label, 15));
    } else {
      const turn = (node.angle * 180) / Math.PI + (left ? 180 : 0);
      set(text, {
        x: 0,
        y: 0,
        transform: `translate(${round(x)} ${round(y)}) rotate(${round(turn)})`,
        "text-anchor": left ? "end" : "start",
      });
      write(text, format.short(node.label, 12));
    }
  }

  selectedNode() {
    return this.selected === null ? null : this.model.nodeOf.get(this.selected)?.key ?? null;
  }

  label(node, blamed, state) {
    const who = node.members.length === 1 ? `${format.short(node.label, 40)}, rank ${node.members[0].rank}` : `${format.short(node.label, 40)}, ${node.members.length} members`;
    return `${who}, ${state}${blamed ? `, ${this.model.sick.members.get(blamed.id).syndrome}` : ""}`;
  }

  describe() {
    const { kind, nodes } = this.model;
    const of = { host: "a node is a host", site: "a node is a site", block: "a node is a block of ranks" }[kind];
    this.empty.hidden = nodes.length > 0;
    const more = this.few ? null : "point at a member for its links; lines within are medians between sites";
    write(this.note, [of && `${this.snapshot.members.length} members: ${of}`, more].filter(Boolean).join("; "));
    const scaled = nodes.length > 1 ? this.scale : null;
    this.legend.hidden = scaled === null;
    if (scaled === null) return;
    const [thin, wide] = this.legend.querySelectorAll(".bound");
    write(thin, format.rate(scaled.low));
    write(wide, format.rate(scaled.high));
    this.legend.querySelectorAll(".wedge stop").forEach((stop, number) => {
      stop.style.stopColor = ramp(0.3 + 0.7 * number);
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
    const title = pair.sites ? "Between two sites, median" : pair.onRing ? "A link of the ring" : "A link";
    return { title, rows, note: pair.finding ? format.short(`${pair.finding.syndrome}: ${pair.finding.evidence}`, 400) : "" };
  }

  tellNode(key) {
    const node = this.model.nodes.find((found) => found.key === key);
    if (!node) return null;
    const blamed = node.members.map((member) => this.model.sick.members.get(member.id)).find(Boolean);
    const note = blamed ? format.short(`${blamed.syndrome}: ${blamed.evidence}`, 400) : "";
    if (node.members.length > 1) {
      const names = node.members.slice(0, 8).map((member) => format.short(member.name, 20)).join(", ");
      return { title: format.short(node.label, 40), rows: [["members", String(node.members.length)], ["site", format.short(node.site ?? format.UNKNOWN, 40)]], note: note || names };
    }
    const [member] = node.members;
    const waiting = (member.operation?.waiting_on ?? []).map((id) => format.short(nameOf(this.snapshot, id), 20));
    const rows = [
      ["rank", String(member.rank)],
      ["host", format.short(`${member.host ?? format.UNKNOWN}${member.site ? `, ${member.site}` : ""}`, 60)],
      ["state", format.short(member.state ?? format.UNKNOWN, 20)],
      ["sends", format.rate(member.sent)],
      ["receives", format.rate(member.received)],
    ];
    if (waiting.length) rows.push(["waits for", waiting.slice(0, 4).join(", ")]);
    return { title: format.short(member.name, 40), rows, note };
  }
}
