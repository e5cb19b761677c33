// What the drawings have in common: members as nodes (or, of large groups, hosts or sites), links between these, who is sick.

import { short } from "./format.js";
import { placed } from "./layout.js";

export const MOST_NODES = 64;

export const STATES = ["computing", "communicating", "waiting", "silent"];

const list = (value) => (Array.isArray(value) ? value : []);

/** A snapshot in which everything is there that the page reads, whatever a coordinator of another version left out. */
export function complete(snapshot) {
  const members = list(snapshot.members).map((member) => ({ ...member, site: member.site || null })); // "": not told
  const order = list(snapshot.plan?.order);
  return {
    ...snapshot,
    members,
    links: list(snapshot.links),
    traffic: list(snapshot.traffic),
    findings: list(snapshot.findings),
    events: list(snapshot.events),
    history: list(snapshot.history),
    leftOut: list(snapshot.left_out),
    order: order.length ? order : members.map((member) => member.id),
    planned: order.length > 1,
    byId: new Map(members.map((member) => [member.id, member])),
  };
}

export const isOpen = (finding) => finding.ended === null || finding.ended === undefined;

export const nameOf = (snapshot, id) => String(snapshot.byId.get(id)?.name ?? `member ${id}`);

/** The culprit of a finding in words. */
export function culprit(finding) {
  const names = list(finding.names).map((name) => short(name, 40));
  if (finding.culprit === "link") return `link ${names.join(" → ")}`;
  if (finding.culprit === "sender") return `what ${names[0]} sends`;
  if (finding.culprit === "receiver") return `what ${names[0]} receives`;
  return names.join(", ");
}

/** For keys: a coordinator works times out anew for each snapshot, and they differ in the last digits. */
export const moment = (event) => Math.round(event.at * 10);

const ABOUT_ONE = { joined: "joined", left: "left", died: "died", evicted: "was evicted", rejected: "was not let in" };

/** An event in words. Of who comes and goes, a coordinator tells the name apart from the cause. */
export function sentence(event) {
  const text = String(event.text ?? "");
  if (!Object.hasOwn(ABOUT_ONE, event.kind) || !event.name) return text;
  const told = `${short(event.name, 40)} ${ABOUT_ONE[event.kind]}`;
  const cause = text.startsWith(`${event.kind}: `) ? text.slice(event.kind.length + 2) : text;
  return cause === "" || cause === event.kind ? told : `${told}: ${cause}`;
}

/** Ids of members, and "from>to" of links, that open findings blame. */
export function blamed(snapshot) {
  const members = new Map();
  const links = new Map();
  for (const finding of snapshot.findings.filter(isOpen)) {
    const ids = list(finding.members);
    if (finding.culprit === "link" && ids.length === 2) links.set(`${ids[0]}>${ids[1]}`, finding);
    else for (const id of ids) members.set(id, finding);
  }
  return { members, links };
}

export function model(snapshot) {
  const { kind, nodes } = nodesOf(snapshot);
  const nodeOf = new Map();
  nodes.forEach((node) => node.members.forEach((member) => nodeOf.set(member.id, node)));
  const sick = blamed(snapshot);
  const links = linksOf(snapshot, nodeOf, sick);
  const sites = [...new Set(nodes.map((node) => node.site))].filter((site) => site !== null);
  const place = placed(nodes, snapshot.order, nodeOf);
  return { kind, nodes, nodeOf, place, links, ring: ringOf(snapshot, nodeOf), sites, sick, now: trafficOf(snapshot, nodeOf) };
}

const LEVELS = [
  ["member", (member) => `m${member.id}`, (member) => String(member.name)],
  ["host", (member) => `h${member.host_id ?? member.host}`, (member) => String(member.host)],
  ["site", (member) => `s${member.site}`, (member) => String(member.site ?? "no site")],
];

function nodesOf(snapshot) {
  for (const [kind, key, label] of LEVELS) {
    const nodes = grouped(snapshot.members, key, label);
    if (nodes.length <= MOST_NODES && (kind !== "site" || nodes.length > 1)) return { kind, nodes };
  }
  const each = Math.ceil(snapshot.members.length / MOST_NODES);
  const block = (member) => Math.floor(member.rank / each);
  const label = (member) => `ranks ${block(member) * each}–${block(member) * each + each - 1}`;
  return { kind: "block", nodes: grouped(snapshot.members, (member) => `b${block(member)}`, label) };
}

function grouped(members, key, label) {
  const nodes = new Map();
  for (const member of members) {
    const name = key(member);
    if (!nodes.has(name)) {
      const site = member.site ?? null;
      nodes.set(name, { key: name, label: label(member), members: [], site, host: member.host_id ?? member.host });
    }
    nodes.get(name).members.push(member);
  }
  return [...nodes.values()];
}

/** By "from>to" of node keys; between nodes of several members, the medians of what was measured between these. */
function linksOf(snapshot, nodeOf, sick) {
  const collected = new Map();
  for (const link of snapshot.links) {
    const [from, to] = [nodeOf.get(link.source), nodeOf.get(link.target)];
    if (!from || !to || from === to) continue;
    const key = `${from.key}>${to.key}`;
    if (!collected.has(key)) collected.set(key, { key, from, to, rows: [], finding: null });
    collected.get(key).rows.push(link);
  }
  for (const [pair, finding] of sick.links) {
    const [from, to] = pair.split(">").map((id) => nodeOf.get(Number(id)));
    if (!from || !to || from === to) continue;
    const key = `${from.key}>${to.key}`;
    if (!collected.has(key)) collected.set(key, { key, from, to, rows: [], finding: null });
    collected.get(key).finding = finding;
  }
  for (const link of collected.values()) Object.assign(link, medians(link.rows));
  return collected;
}

const medians = (rows) =>
  Object.fromEntries(["latency", "bandwidth", "streams", "age"].map((name) => [name, median(rows.map((row) => row[name]))]));

/** Of links between nodes, those between what `of(node)` names, as medians, by "from>to". */
export function linksBetween(links, of) {
  const collected = new Map();
  for (const link of links) {
    const [from, to] = [of(link.from), of(link.to)];
    if (from === null || to === null || from === to) continue;
    const key = `${from}>${to}`;
    if (!collected.has(key)) collected.set(key, { key, rows: [] });
    collected.get(key).rows.push(...link.rows);
  }
  for (const link of collected.values()) Object.assign(link, medians(link.rows));
  return collected;
}

function ringOf(snapshot, nodeOf) {
  const ring = new Map();
  const { order } = snapshot;
  if (order.length < 2) return ring;
  order.forEach((id, index) => {
    const [from, to] = [nodeOf.get(id), nodeOf.get(order[(index + 1) % order.length])];
    if (from && to && from !== to) ring.set(`${from.key}>${to.key}`, { from, to });
  });
  return ring;
}

function trafficOf(snapshot, nodeOf) {
  const now = new Map();
  for (const row of snapshot.traffic) {
    const [from, to] = [nodeOf.get(row.source), nodeOf.get(row.target)];
    if (!from || !to || from === to) continue;
    const key = `${from.key}>${to.key}`;
    const known = now.get(key) ?? { sent: 0, busy: 0 };
    now.set(key, { sent: known.sent + (row.sent ?? 0), busy: Math.max(known.busy, row.busy ?? 0) });
  }
  return now;
}

export function median(values) {
  const sorted = values.filter((value) => typeof value === "number").sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor((sorted.length - 1) / 2)] : null;
}
