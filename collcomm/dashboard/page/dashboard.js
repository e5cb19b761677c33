// The page: a connection that brings snapshots, and panels that draw them.

import { Chart } from "./chart.js";
import { onSchemeChange } from "./colours.js";
import { Connection, groups } from "./connection.js";
import { html, keyed, set, write } from "./elements.js";
import { Events, Findings } from "./findings.js";
import * as format from "./format.js";
import { Matrix } from "./matrix.js";
import { Members } from "./members.js";
import { complete, isOpen, model } from "./model.js";
import { Timeline } from "./timeline.js";
import { Tip } from "./tip.js";
import { Topology } from "./topology.js";

const GROUPS_EVERY = 10000; // milliseconds

const part = (id) => document.getElementById(id);
const tip = new Tip(part("tip"));

let latest = null;
let selected = null; // id of a member
let connection = { mode: "connecting" };
let known = [];

const select = (member) => {
  selected = member;
  render();
};

const panels = [
  new Topology(part("topology"), tip, select),
  new Findings(part("findings")),
  new Chart(part("throughput"), tip, "throughput", "sent", 1000, format.rate),
  new Chart(part("operations"), tip, "operations", "operations", 1, (value) => `${format.perSecond(value)}/s`),
  new Timeline(part("timeline"), part("details"), tip),
  new Matrix(part("matrix"), tip),
  new Members(part("members"), select),
  new Events(part("events")),
];

function render() {
  if (latest === null || document.hidden) return;
  const snapshot = complete(latest);
  if (selected !== null && !snapshot.byId.has(selected)) selected = null;
  const drawn = model(snapshot);
  renderHead(snapshot);
  for (const panel of panels) {
    try {
      panel.render(snapshot, drawn, selected);
    } catch (error) {
      console.error(error); // the others are drawn all the same
    }
  }
  tip.refresh();
  document.body.dataset.at = String(snapshot.at);
}

function renderHead(snapshot) {
  const now = snapshot.history[snapshot.history.length - 1] ?? {};
  const open = snapshot.findings.filter(isOpen);
  const some = snapshot.members.length > 0;
  const figure = (id, text, note) => {
    write(part(id).querySelector("dd"), text);
    write(part(id).querySelector(".under"), note);
    set(part(id).querySelector(".under"), { title: note });
  };
  const hosts = new Set(snapshot.members.map((member) => member.host_id ?? member.host)).size;
  const sites = new Set(snapshot.members.map((member) => member.site).filter(Boolean)).size;
  figure("tile-members", format.count(snapshot.members.length), some ? `${plural(hosts, "host")}${sites > 1 ? `, ${sites} sites` : ""}` : "nobody yet");
  const since = snapshot.since ? `for ${format.span(Math.max(0, snapshot.at - snapshot.since))}` : "";
  const state = snapshot.state ? `${format.short(snapshot.state, 16)} ` : "";
  figure("tile-epoch", format.count(snapshot.epoch), `${state}${since}`);
  figure("tile-operations", format.perSecond(now.operations), "per second");
  figure("tile-throughput", format.rate(now.sent), "sent by all");
  figure("tile-pending", format.count(snapshot.pending), snapshot.pending ? "let in at the next step" : "nobody waits");
  const silent = snapshot.members.filter((member) => member.state === "silent").length;
  figure("tile-findings", String(open.length), open.length ? format.short(open[open.length - 1].syndrome, 40) : silent ? `${silent} silent` : "all is well");
  set(part("tile-findings"), { class: open.length ? "tile bad" : "tile" });
  const without = snapshot.leftOut.length ? `, without ${format.short(snapshot.leftOut.join(", "), 60)}: there is too much` : "";
  write(part("time"), snapshot.at ? `as of ${format.time(snapshot.at)}${without}` : "");
  write(part("group-name"), snapshot.group === null ? "no group yet" : format.short(snapshot.group, 80));
  const alarm = open.length ? `${open.length === 1 ? "1 finding" : `${open.length} findings`}: ` : "";
  document.title = `${alarm}${format.short(snapshot.group ?? "no group", 60)} – collcomm`;
}

const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;

// ---- the connection ---------------------------------------------------------------------------------------------

function renderConnection() {
  const { mode, retryAt, trouble } = connection;
  const left = Math.max(0, Math.ceil((retryAt - performance.now()) / 1000));
  const words = {
    connecting: "connecting",
    live: trouble ? "the coordinator has no snapshot" : "live",
    polling: "polling",
    gone: `coordinator gone, trying again${left ? ` in ${left} s` : ""}`,
  };
  set(part("connection"), { "data-mode": mode });
  write(part("connection-words"), words[mode]);
  part("retry").hidden = mode !== "gone";
  document.body.classList.toggle("stale", mode === "gone");
}

const line = new Connection({
  snapshot(snapshot) {
    latest = snapshot;
    render();
  },
  absent() {
    latest = { at: Date.now() / 1000, group: line.group };
    render();
  },
  state(state) {
    const said = connection.mode;
    connection = state;
    renderConnection();
    if (said !== state.mode) {
      write(part("spoken"), { gone: "The coordinator is gone.", live: "Live." }[state.mode] ?? "");
      if (state.mode === "live") renderGroups();
    }
  },
});

async function renderGroups() {
  const found = await groups();
  if (!Array.isArray(found)) return;
  known = found.map(String);
  const choice = part("group");
  const current = line.group ?? latest?.group ?? known[0];
  const names = known.includes(current) || current === undefined || current === null ? known : [current, ...known];
  choice.hidden = names.length < 2;
  part("group-name").hidden = names.length >= 2;
  keyed(choice, names, (name) => name, (name) => html("option", { value: name }, format.short(name, 60)), () => {});
  if (current !== undefined && current !== null && choice.value !== current) choice.value = current;
}

function follow(group) {
  latest = null;
  selected = null;
  line.select(group);
}

part("group").addEventListener("change", (event) => {
  const group = event.target.value;
  history.replaceState(null, "", `#${encodeURIComponent(group)}`);
  follow(group);
});
part("retry").addEventListener("click", () => line.retry());
addEventListener("online", () => line.retry());
addEventListener("hashchange", () => follow(asked()));
document.addEventListener("visibilitychange", render);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && selected !== null) select(null);
});
onSchemeChange(render);
setInterval(renderConnection, 500);
setInterval(() => connection.mode !== "gone" && renderGroups(), GROUPS_EVERY);

function asked() {
  try {
    return location.hash.length > 1 ? decodeURIComponent(location.hash.slice(1)) : null;
  } catch {
    return null; // not of our making
  }
}

follow(asked());
