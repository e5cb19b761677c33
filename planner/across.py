"""The choice among ranks on several hosts: within a host links are fast, and its network card serves all ranks of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..collectives import Hosts
from .choice import COSTS, LOOPBACK, Choice, Links, choose, segments

NETWORK = Links(latency=100e-6, bandwidth=1.25e9)  # of a host, in each direction
_Cost = Callable[[int, int, float], float]  # hosts, ranks of the largest host, bytes


def _once(h: int, m: int, nbytes: float) -> float:
    """Once round the hosts, each part passing h - 1 links, while what comes is spread (or what goes is reduced) within."""
    across, within = (h - 1) / h * nbytes / NETWORK.bandwidth, (m - 1) / m * nbytes / LOOPBACK.bandwidth
    return (h - 1) * NETWORK.latency + LOOPBACK.latency + max(across, within)


HIERARCHICAL: dict[str, _Cost] = {
    "all_reduce": lambda h, m, nbytes: 2 * _once(h, m, nbytes),
    "reduce_scatter": _once,
    "all_gather": _once,
    "broadcast": lambda h, m, nbytes: (
        (h - 1) * NETWORK.latency + LOOPBACK.latency + nbytes / min(NETWORK.bandwidth, LOOPBACK.bandwidth)
    ),
}


def choose_across(kind: str, nbytes: int, hosts: tuple[int, ...]) -> Choice:
    """As `choose`, for ranks on the hosts ``hosts``, of which some share one."""
    layout, n = Hosts.of(len(hosts), hosts), len(hosts)
    if not 1 < layout.count < n:
        return choose(kind, n, nbytes)
    largest = max(len(ranks) for ranks in layout.members)
    found = []
    for name, cost in COSTS[kind].items():
        sharing = layout.widest_cut if name == "ring" else largest  # links that cross from one host at a time
        links = Links(NETWORK.latency, NETWORK.bandwidth / max(1, sharing), NETWORK.compute)
        found.append((cost(n, nbytes, links), name))
    if kind in HIERARCHICAL:
        found.append((HIERARCHICAL[kind](layout.count, largest, nbytes), "hierarchical"))
    seconds, algorithm = min(found)
    if algorithm != "hierarchical":
        return Choice(algorithm, choose(kind, n, nbytes, only=algorithm).parameters, seconds)
    parameters: dict[str, Any] = {"hosts": hosts}
    if kind in ("all_reduce", "broadcast"):
        pieces = layout.shares * (layout.count if kind == "all_reduce" else 1)
        parameters["segments"] = segments(nbytes / pieces)
    return Choice(algorithm, parameters, seconds)
