// Where nodes of the topology stand: on a circle, site by site, host by host, along the ring within these.

const GAP = { host: 0.5, site: 1.6 }; // beside the space of a node, 1

/** Adds `angle`, `x`, `y` (unit circle) to each node; returns the arcs [{site, from, to}] and [{host, from, to}] (angles). */
export function placed(nodes, order, nodeOf) {
  const position = new Map();
  order.forEach((id, index) => {
    const node = nodeOf.get(id);
    if (node && !position.has(node)) position.set(node, index);
  });
  const at = (node) => position.get(node) ?? Infinity;
  const first = (key) => {
    const earliest = new Map();
    for (const node of nodes) earliest.set(node[key], Math.min(earliest.get(node[key]) ?? Infinity, at(node)));
    return earliest;
  };
  const [sites, hosts] = [first("site"), first("host")];
  const compare = (a, b) =>
    sites.get(a.site) - sites.get(b.site) || hosts.get(a.host) - hosts.get(b.host) || at(a) - at(b) || 0;
  const sorted = [...nodes].sort(compare);
  const gaps = sorted.map((node, index) => gap(node, sorted[(index + 1) % sorted.length]));
  const whole = gaps.reduce((sum, value) => sum + value, 0) || 1;
  let travelled = 0;
  sorted.forEach((node, index) => {
    node.angle = -Math.PI / 2 + ((travelled + gaps[gaps.length - 1] / 2) / whole) * 2 * Math.PI;
    node.x = Math.cos(node.angle);
    node.y = Math.sin(node.angle);
    travelled += gaps[index];
  });
  return { sorted, sites: arcs(sorted, "site"), hosts: hosts.size > 1 ? arcs(sorted, "host").filter((arc) => arc.count > 1) : [], step: (2 * Math.PI) / whole };
}

function gap(one, two) {
  if (one.site !== two.site) return 1 + GAP.site;
  return one.host === two.host ? 1 : 1 + GAP.host;
}

function arcs(sorted, key) {
  const found = [];
  for (const node of sorted) {
    const last = found[found.length - 1];
    if (last && last.name === node[key]) {
      last.to = node.angle;
      last.angles.push(node.angle);
      last.count += 1;
    } else found.push({ name: node[key], from: node.angle, to: node.angle, count: 1, angles: [node.angle] });
  }
  for (const arc of found) arc.title = between(arc.angles);
  return found;
}

/** Where the name of an arc stands: between the two nodes in its middle, out of the way of their own names. */
function between(angles) {
  const after = Math.ceil(angles.length / 2);
  return angles.length === 1 ? angles[0] : (angles[after - 1] + angles[after]) / 2;
}

/** A curve between two places on the circle that bends towards its centre, the more the farther they are apart. */
export function chord(from, to, radius, centre, lift = 0) {
  const apart = Math.hypot(from.x - to.x, from.y - to.y) / 2;
  const pull = 1 - 0.78 * apart;
  const bend = { x: ((from.x + to.x) / 2) * pull, y: ((from.y + to.y) / 2) * pull };
  const side = { x: -(to.y - from.y) * lift, y: (to.x - from.x) * lift };
  const point = (place) => ({ x: centre.x + place.x * radius, y: centre.y + place.y * radius });
  const [a, b, c] = [point(from), point({ x: bend.x + side.x, y: bend.y + side.y }), point(to)];
  const middle = { x: (a.x + 2 * b.x + c.x) / 4, y: (a.y + 2 * b.y + c.y) / 4 };
  const turn = (Math.atan2(c.y - a.y, c.x - a.x) * 180) / Math.PI;
  return { path: `M${round(a.x)} ${round(a.y)}Q${round(b.x)} ${round(b.y)} ${round(c.x)} ${round(c.y)}`, middle, turn };
}

/** A piece of a circle, clockwise, or the other way when `back`; at most nearly all of it. */
export function arc(radius, from, to, centre, back = false) {
  const end = Math.min(to, from + 2 * Math.PI - 0.01);
  const place = (angle) => `${round(centre.x + radius * Math.cos(angle))} ${round(centre.y + radius * Math.sin(angle))}`;
  const large = end - from > Math.PI ? 1 : 0;
  const [first, last] = back ? [end, from] : [from, end];
  return `M${place(first)}A${radius} ${radius} 0 ${large} ${back ? 0 : 1} ${place(last)}`;
}

export const round = (value) => Math.round(value * 10) / 10;
