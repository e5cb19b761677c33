"""A network under a collective's load, as a picture.

Up to 200 hosts are drawn one by one, round their switches; of more, the switches with what their hosts send and receive. A
link's two directions are two lines, each to the right of who sends on it, coloured by the share of its capacity that is used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from ..planner.prediction import Prediction, share_of
from ..planner.quantities import format_rate
from ..planner.topology import Plug, Topology

MOST_HOSTS = 200
MOST_LABELS = 20  # links whose rate is written on them
FEW_LABELS = 6  # with more links, only on those that carry something
MOST_CABLES = 32  # hosts whose names fit
LOAD: Colormap = LinearSegmentedColormap.from_list("load", ["#c9d3dc", "#f2c14e", "#e4572e", "#7d1128"])
RING, INK, PAPER, SWITCH = "#2f6fde", "#22303c", "#ffffff", "#22303c"
Point = tuple[float, float]
Line = tuple[Point, Point]


def save_picture(
    path: Path, topology: Topology, prediction: Prediction, ring: Sequence[int] = (), title: str = ""
) -> None:
    """``ring``: ranks in the order in which they stand round it; empty if there is none. Raises OSError."""
    loads = [
        share_of(nbytes, topology.capacities[resource], prediction.seconds)
        for resource, nbytes in enumerate(prediction.carried)
    ]
    many = len(topology.all_hosts) > MOST_HOSTS and bool(topology.switches)
    figure = _draw_layers(topology, loads) if many else _draw_hosts(topology, loads, ring)
    axes = figure.axes[0]
    axes.set_title(f"{topology.name}\n{title}", color=INK, fontsize=12)
    axes.set_axis_off()
    scale = matplotlib.cm.ScalarMappable(Normalize(0, 100), LOAD)
    figure.colorbar(scale, ax=axes, shrink=0.55, pad=0.02, label="used, % of capacity")
    try:
        figure.savefig(path, dpi=130, facecolor=PAPER, bbox_inches="tight", pad_inches=0.3)
    finally:
        plt.close(figure)


def _draw_hosts(topology: Topology, loads: Sequence[float], ring: Sequence[int]) -> Figure:
    figure, axes = plt.subplots(figsize=(11, 9), constrained_layout=True)
    places = _places(topology, ring)
    lines: list[Line] = []
    shares: list[float] = []
    crowded = len(topology.all_hosts) > MOST_CABLES
    gap = 0.012 if crowded else 0.022
    for number, host in enumerate(topology.all_hosts):
        if host.gate:
            up, down = topology.card(number)
            here, there = places[number], places[topology.node_of[host.gate]]
            lines += [_beside(here, there, gap), _beside(there, here, gap)]
            shares += [loads[up], loads[down]]
    _add_links(axes, topology, places, loads, lines, shares, gap)
    width = 1.6 if crowded else 3.2
    axes.add_collection(
        LineCollection(lines, colors=[LOAD(min(1.0, share)) for share in shares], linewidths=width, zorder=2)
    )
    _add_nodes(axes, topology, places, crowded)
    if len(ring) > 1 and not crowded:
        _add_ring(axes, [places[topology.hosts[rank]] for rank in ring])
    axes.set_aspect("equal")
    axes.margins(0.12)
    return figure


def _places(topology: Topology, ring: Sequence[int]) -> dict[int, Point]:
    """Of hosts and switches, by node. Switches with hosts stand on a circle, each with its hosts round it on the far side."""
    hosts = len(topology.all_hosts)
    guests: dict[int, list[int]] = {}
    for number, host in enumerate(topology.all_hosts):
        guests.setdefault(topology.node_of[host.gate] if host.gate else -1, []).append(number)
    alone = guests.pop(-1, [])
    places: dict[int, Point] = {}
    if len(guests) == 1:
        ((switch, members),) = guests.items()
        places[switch] = (0.0, 0.0)
        _arrange(places, _in_order(topology, members, ring), (0.0, 0.0), 1.0, math.pi / 2, 2 * math.pi)
    for index, (switch, members) in enumerate(guests.items() if len(guests) > 1 else ()):
        angle = math.pi - 2 * math.pi * index / len(guests)
        reach = max(1.0, len(guests) / 4)
        places[switch] = centre = (reach * math.cos(angle), reach * math.sin(angle))
        arc = math.pi * (1.15 if len(guests) < 4 else 0.9) * (len(members) - 1) / max(1, len(members))
        _arrange(places, members, centre, 0.85, angle + arc / 2, arc)
    others = [node for node in range(hosts, len(topology.node_names)) if node not in places]
    _arrange(places, others, (0.0, 0.0), 0.0 if len(others) == 1 else 0.45, math.pi / 2, 2 * math.pi)
    _arrange(places, _in_order(topology, alone, ring), (0.0, 0.0), 1.4 if guests else 1.0, math.pi / 2, 2 * math.pi)
    return places


def _in_order(topology: Topology, hosts: Sequence[int], ring: Sequence[int]) -> list[int]:
    """As they stand round the ring, which then crosses nothing."""
    first = {topology.hosts[rank]: -place for place, rank in reversed(list(enumerate(ring)))}
    return sorted(hosts, key=lambda host: (-first.get(host, -host), host))


def _arrange(
    places: dict[int, Point], nodes: Sequence[int], centre: Point, radius: float, begin: float, arc: float
) -> None:
    """Clockwise along an arc; a whole circle ends one step before its beginning."""
    steps = len(nodes) if arc > 1.99 * math.pi else max(1, len(nodes) - 1)
    for index, node in enumerate(nodes):
        angle = begin - arc * index / steps
        places[node] = (centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle))


def _beside(here: Point, there: Point, gap: float) -> Line:
    """The line to the right of the way from ``here`` to ``there``."""
    dx, dy = there[0] - here[0], there[1] - here[1]
    length = math.hypot(dx, dy) or 1.0
    x, y = dy / length * gap, -dx / length * gap
    return (here[0] + x, here[1] + y), (there[0] + x, there[1] + y)


def _add_links(
    axes: Axes,
    topology: Topology,
    places: dict[int, Point],
    loads: Sequence[float],
    lines: list[Line],
    shares: list[float],
    gap: float,
) -> None:
    """Links side by side keep apart. A rate that differs by direction is written near who sends at it."""
    cables: dict[tuple[str, str], int] = {}
    for link in topology.links:
        pair = (link.b, link.a) if (link.b, link.a) in cables else (link.a, link.b)
        cables[pair] = cables.get(pair, 0) + 1
    drawn = dict.fromkeys(cables, 0)
    for link, (there, back) in zip(topology.links, topology.link_resources, strict=True):
        turned = (link.b, link.a) in cables
        pair = (link.b, link.a) if turned else (link.a, link.b)
        offset = (drawn[pair] - (cables[pair] - 1) / 2) * 3.5 * gap
        drawn[pair] += 1
        one, other = _beside(places[topology.node_of[pair[0]]], places[topology.node_of[pair[1]]], offset)
        if turned:
            one, other = other, one
        lines += [_beside(one, other, gap), _beside(other, one, gap)]
        shares += [loads[there], loads[back]]
        if (
            drawn[pair] > 1
            or (len(cables) > FEW_LABELS and not loads[there] + loads[back])
            or len(cables) > MOST_LABELS
        ):
            continue
        times = f"{cables[pair]} x " if cables[pair] > 1 else ""
        delay = f"\n{link.latency * 1e3:g} ms" if link.latency else ""
        if link.there == link.back:
            _write(axes, one, other, 0.5, times + format_rate(link.there) + delay)
        else:
            _write(axes, one, other, 0.3, f"{link.a} sends\n{times}{format_rate(link.there)}{delay}")
            _write(axes, other, one, 0.3, f"{link.b} sends\n{times}{format_rate(link.back)}{delay}")


def _write(axes: Axes, here: Point, there: Point, share: float, words: str) -> None:
    """Part of the way from ``here`` to ``there``."""
    where = (here[0] + share * (there[0] - here[0]), here[1] + share * (there[1] - here[1]))
    box = {"boxstyle": "round,pad=0.25", "facecolor": PAPER, "edgecolor": "none"}
    axes.annotate(words, where, ha="center", va="center", fontsize=7.5, color=INK, bbox=box, zorder=4)


def _add_nodes(axes: Axes, topology: Topology, places: dict[int, Point], crowded: bool) -> None:
    hosts = len(topology.all_hosts)
    plugged = {host.gate for host in topology.all_hosts}
    for node, (x, y) in places.items():
        name = topology.node_names[node]
        if node >= hosts:
            axes.plot(x, y, "s", markersize=17, color=SWITCH, zorder=5)
            axes.annotate(
                name,
                (x, y),
                xytext=(0, -15),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=9,
                fontweight="bold",
                color=INK,
                zorder=8,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.8},
            )
            continue
        host = topology.all_hosts[node]
        axes.plot(
            x, y, "o", markersize=7 if crowded else 24, color=PAPER, markeredgecolor=INK, markeredgewidth=1.3, zorder=5
        )
        if crowded:
            continue
        short = len(name) <= 4
        if short:
            axes.annotate(name, (x, y), ha="center", va="center", fontsize=9, color=INK, zorder=6)
        words = [] if short else [name]
        if host.up is not None and host.down is not None:
            words.append(
                format_rate(host.up) if host.up == host.down else f"{format_rate(host.up)} | {format_rate(host.down)}"
            )
        if host.ranks > 1:
            words.append(f"{host.ranks} ranks")
        centre = places[topology.node_of[host.gate]] if host.gate in plugged and host.gate else (0.0, 0.0)
        dx, dy = x - centre[0], y - centre[1]
        length = math.hypot(dx, dy) or 1.0
        axes.annotate(
            "\n".join(words),
            (x, y),
            xytext=(dx / length * 36, dy / length * 27),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=7.5,
            color=INK,
            zorder=6,
        )


def _add_ring(axes: Axes, stops: Sequence[Point]) -> None:
    for here, there in zip(stops, [*stops[1:], stops[0]], strict=True):
        if here == there:
            continue
        arrow = FancyArrowPatch(
            here,
            there,
            connectionstyle="arc3,rad=-0.25",
            arrowstyle="-|>",
            mutation_scale=13,
            shrinkA=14,
            shrinkB=14,
            color=RING,
            linewidth=1.5,
            linestyle=(0, (5, 2)),
            alpha=0.9,
            zorder=7,
        )
        axes.add_patch(arrow)
    axes.plot([], [], color=RING, linestyle="--", label="the ring")
    axes.legend(loc="lower left", frameon=False, fontsize=9)


def _draw_layers(topology: Topology, loads: Sequence[float]) -> Figure:
    """Switches with hosts in the lowest row, others above by their distance; under each what its hosts send and receive."""
    figure, axes = plt.subplots(figsize=(14, 7.5), constrained_layout=True)
    hosts = len(topology.all_hosts)
    groups: dict[int, list[int]] = {}
    for number, host in enumerate(topology.all_hosts):
        if host.gate:
            groups.setdefault(topology.node_of[host.gate], []).append(number)
    rows = _rows(topology, list(groups))
    places: dict[int, Point] = {}
    for height, row in enumerate(rows):
        spread = 1.0 if height == 0 else 0.8
        for index, node in enumerate(row):
            places[node] = (spread * (2 * (index + 0.5) / len(row) - 1), float(height))
    lines: list[Line] = []
    shares: list[float] = []
    for link, (there, back) in zip(topology.links, topology.link_resources, strict=True):
        a, b = places.get(topology.node_of[link.a]), places.get(topology.node_of[link.b])
        if a and b:
            lines.append((a, b))
            shares.append(max(loads[there], loads[back]))
    by_load = sorted(range(len(lines)), key=lambda index: shares[index])
    width = max(0.5, min(3.0, 300 / max(1, len(lines))))
    axes.add_collection(
        LineCollection(
            [lines[index] for index in by_load],
            colors=[LOAD(min(1.0, shares[index]), alpha=min(1.0, 0.15 + shares[index])) for index in by_load],
            linewidths=width,
            zorder=1,
        )
    )
    step = 2 / max(1, len(rows[0]))
    for node in rows[0]:
        x = places[node][0]
        for side, card in ((-1, 0), (1, 1)):
            used = [loads[topology.card(host)[card]] for host in groups[node]]
            mean, top = sum(used) / len(used), max(used)
            left = x + (side - 1) * step * 0.22
            axes.bar(left, -0.4 * mean, step * 0.4, bottom=-0.06, align="edge", color=LOAD(min(1.0, mean)), zorder=2)
            axes.plot([left, left + step * 0.4], [-0.06 - 0.4 * top] * 2, color=INK, linewidth=0.6, zorder=3)
    for height, row in enumerate(rows):
        size = 17 if len(row) <= 40 else max(2.0, 500 / len(row))
        axes.plot([places[n][0] for n in row], [height] * len(row), "s", markersize=size, color=SWITCH, zorder=5)
        _name_row(axes, topology, row, places, height)
    axes.axhline(-0.46, color="#c9d3dc", linewidth=0.8, xmin=0.02, xmax=0.98)
    each = f"{hosts:,} hosts at {len(groups):,} switches"
    axes.annotate(
        f"{each}: used of their cards, sending (left) and receiving (right); bars: mean, marks: the busiest; grey line: all",
        (0, -0.58),
        ha="center",
        fontsize=9,
        color=INK,
    )
    axes.set_xlim(-1.06, 1.06)
    axes.set_ylim(-0.7, len(rows) - 0.75)
    return figure


def _name_row(axes: Axes, topology: Topology, row: Sequence[int], places: dict[int, Point], height: int) -> None:
    """Under the switches of few; the first and the last of many."""
    many = len(row) > 40
    for node in (row[0], row[-1]) if many else row:
        up = 9 if height or many else -9
        axes.annotate(
            topology.node_names[node],
            places[node],
            xytext=(0, 13 if up > 0 else -13),
            textcoords="offset points",
            ha="center",
            va="bottom" if up > 0 else "top",
            fontsize=8.5,
            fontweight="bold",
            color=INK,
            zorder=6,
            bbox={"boxstyle": "round,pad=0.15", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.8},
        )


def _rows(topology: Topology, lowest: list[int]) -> list[list[int]]:
    """Switches by the number of links from the nearest one with hosts."""
    rows, seen = [lowest], set(lowest)
    hosts = len(topology.all_hosts)
    while True:
        plugs: list[Plug] = [plug for node in rows[-1] for plug in topology.uplinks(node)]
        above = list(dict.fromkeys(plug.node for plug in plugs if plug.node not in seen and plug.node >= hosts))
        if not above:
            return rows
        seen.update(above)
        rows.append(sorted(above))
