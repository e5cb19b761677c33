"""The algorithms that a plan compares, with the parameters that the engine would give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..collectives import BY_MESSAGES, Hosts
from ..planner.choice import segments
from ..planner.order import ring_order
from ..planner.topology import Topology

MOST_ORDERED = 256  # ranks
UNLIMITED = 1e12  # bytes/s, within a host
MOST_SEGMENTS = 64  # in a simulation; by then a ring takes as long as with any more
ORDERED = ("ring", "bidirectional", "hierarchical")
_CUT = {"ring": ("all_reduce", "broadcast"), "hierarchical": ("all_reduce", "broadcast")}


@dataclass(frozen=True)
class Candidate:
    algorithm: str
    parameters: dict[str, Any]

    def __str__(self) -> str:
        """The parameters in words."""
        return ", ".join(f"{name} {value}" for name, value in self.parameters.items() if isinstance(value, int))


def candidates(kind: str, topology: Topology, nbytes: int, only: Sequence[str] = ()) -> list[Candidate]:
    """By name. ``only``: leave others out. Raises ValueError for a name that the kind does not have."""
    known = sorted(algorithm for of, algorithm in BY_MESSAGES if of == kind)
    for name in only:
        if name not in known:
            raise ValueError(f"{kind} has no algorithm {name!r}; it has {', '.join(known)}")
    layout, n = Hosts.of(topology.n, topology.hosts), topology.n
    found, order = [], order_on(topology)
    for name in known:
        if only and name not in only:
            continue
        parameters: dict[str, Any] = {}
        pieces = 1 if kind == "broadcast" else n
        if name == "hierarchical":
            if not 1 < layout.count < n:
                continue
            parameters["hosts"] = topology.hosts
            pieces = layout.shares * (1 if kind == "broadcast" else layout.count)
        if name in _CUT and kind in _CUT[name]:
            parameters["segments"] = min(MOST_SEGMENTS, segments(nbytes / pieces))
        if name in ORDERED and order != tuple(range(n)):
            parameters["order"] = order
        found.append(Candidate(name, parameters))
    if not found:
        raise ValueError(
            f"none of {', '.join(only) or 'the algorithms'} applies: hierarchical needs hosts with several ranks"
        )
    return found


def order_on(topology: Topology) -> tuple[int, ...]:
    """The ranks as they stand round a ring on this network; as they are numbered where there are very many."""
    n = topology.n
    if not 2 < n <= MOST_ORDERED:
        return tuple(range(n))
    rates, latencies = [[0.0] * n for _ in range(n)], [[0.0] * n for _ in range(n)]
    for source in range(n):
        for target in range(n):
            if source != target:
                path = topology.path(source, target)
                rates[source][target] = min((topology.capacities[number] for number in path), default=UNLIMITED)
                latencies[source][target] = topology.latency(source, target)
    return ring_order(rates, latencies)
