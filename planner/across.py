"""The choice among ranks on several hosts: within a host links are fast, and its network card serves all ranks of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..collectives import Hosts
from .choice import COSTS, LOOPBACK, Choice, Links, choose, segments

NETWORK = Links(latency=100e-6, bandwidth=1.25e9)  # of a host, in each direction
_Cost = Callable[[int, int, float, Links, Links], float]  # hosts, ranks of the largest host, bytes, across, within


def _once(h: int, m: int, nbytes: float, across: Links, within: Links) -> float:
    """Once round the hosts, each part passing h - 1 links, while what comes is spread (or what goes is reduced) within."""
    outside, inside = (h - 1) / h * nbytes / across.bandwidth, (m - 1) / m * nbytes / within.bandwidth
    return (h - 1) * across.latency + within.latency + max(outside, inside)


def _twice(h: int, m: int, nbytes: float, across: Links, within: Links) -> float:
    return 2 * _once(h, m, nbytes, across, within)


def _spread(h: int, m: int, nbytes: float, across: Links, within: Links) -> float:
    return (h - 1) * across.latency + within.latency + nbytes / min(across.bandwidth, within.bandwidth)


HIERARCHICAL: dict[str, _Cost] = {
    "all_reduce": _twice,
    "reduce_scatter": _once,
    "all_gather": _once,
    "broadcast": _spread,
}


def choose_across(
    kind: str, nbytes: int, hosts: tuple[int, ...], across: Links | None = None, within: Links = LOOPBACK
) -> Choice:
    """As `choose`, for ranks on the hosts ``hosts``, of which some share one. ``across``: links between hosts, of which one
    host's ranks share the bandwidth; ``within``: links within a host. Sites may stand for hosts."""
    layout, n = Hosts.of(len(hosts), hosts), len(hosts)
    if layout.count == 1:
        return choose(kind, n, nbytes, within)
    if layout.count == n:
        return choose(kind, n, nbytes, LOOPBACK if across is None else across)
    across = NETWORK if across is None else across
    largest = max(len(ranks) for ranks in layout.members)
    found = []
    for name, cost in COSTS[kind].items():
        sharing = layout.widest_cut if name == "ring" else largest  # links that cross from one host at a time
        links = Links(across.latency, across.bandwidth / max(1, sharing), across.compute)
        found.append((cost(n, nbytes, links), name))
    if kind in HIERARCHICAL:
        found.append((HIERARCHICAL[kind](layout.count, largest, nbytes, across, within), "hierarchical"))
    seconds, algorithm = min(found)
    if algorithm != "hierarchical":
        return Choice(algorithm, choose(kind, n, nbytes, only=algorithm).parameters, seconds)
    parameters: dict[str, Any] = {"hosts": hosts}
    if kind in ("all_reduce", "broadcast"):
        pieces = layout.shares * (layout.count if kind == "all_reduce" else 1)
        parameters["segments"] = segments(nbytes / pieces)
    return Choice(algorithm, parameters, seconds)
