"""The algorithms that a plan compares, with the parameters that the engine would give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..collectives import BY_MESSAGES
from ..planner.order import ring_order
from ..planner.strategy import parameters
from ..planner.topology import Topology
from ..types import LinkClass

MOST_ORDERED = 256  # ranks
UNLIMITED = 1e12  # bytes/s, within a host
MOST_SEGMENTS = 64  # in a simulation; by then a ring takes as long as with any more


@dataclass(frozen=True)
class Candidate:
    algorithm: str
    parameters: dict[str, Any]

    def __str__(self) -> str:
        """The parameters in words."""
        return ", ".join(f"{name} {value}" for name, value in self.parameters.items() if isinstance(value, int))


def candidates(
    kind: str, topology: Topology, nbytes: int, order: tuple[int, ...], only: Sequence[str] = ()
) -> list[Candidate]:
    """By name. ``order``: `order_on` this topology; ``only``: leave others out. Raises ValueError for a name that the kind does
    not have."""
    known = sorted(algorithm for of, algorithm in BY_MESSAGES if of == kind)
    for name in only:
        if name not in known:
            raise ValueError(f"{kind} has no algorithm {name!r}; it has {', '.join(known)}")
    groups, far = groups_on(topology), _longest(topology, order)
    found = []
    for name in known:
        if (only and name not in only) or (name == "hierarchical" and not 1 < len(set(groups)) < topology.n):
            continue
        options = parameters(kind, name, nbytes, 0, order, groups, 0, far)
        if options.get("segments", 0) > MOST_SEGMENTS:
            options = parameters(kind, name, nbytes, MOST_SEGMENTS, order, groups, 0, far)
        found.append(Candidate(name, options))
    if not found:
        raise ValueError(
            f"none of {', '.join(only) or 'the algorithms'} applies: hierarchical needs sites or hosts with several ranks"
        )
    return found


def groups_on(topology: Topology) -> tuple[int, ...]:
    """By rank, what traffic is best kept within: a number for the site where the file names several, else for the host."""
    numbers: dict[str, int] = {}
    sites = [numbers.setdefault(host.site, len(numbers)) for host in topology.all_hosts]
    return tuple(sites[host] for host in topology.hosts) if len(numbers) > 1 else topology.hosts


def order_on(topology: Topology) -> tuple[int, ...]:
    """The ranks as they stand round a ring on this network; as they are numbered where there are very many."""
    n = topology.n
    if not 2 < n <= MOST_ORDERED:
        return tuple(range(n))
    rates, latencies = [[0.0] * n for _ in range(n)], [[0.0] * n for _ in range(n)]
    for source in range(n):
        for target in range(n):
            if source != target:
                rates[source][target] = _rate(topology, source, target)
                latencies[source][target] = topology.latency(source, target)
    return ring_order(rates, latencies)


def _rate(topology: Topology, source: int, target: int) -> float:
    """Bytes/s of a transfer that is alone."""
    return min((topology.capacities[number] for number in topology.path(source, target)), default=UNLIMITED)


def _longest(topology: Topology, order: tuple[int, ...]) -> LinkClass:
    """The longest latency and the least rate of the ring's links."""
    links = list(zip(order, order[1:] + order[:1], strict=True)) if len(order) > 1 else []
    return LinkClass(
        max((topology.latency(source, target) for source, target in links), default=0.0),
        min((_rate(topology, source, target) for source, target in links), default=UNLIMITED),
    )
