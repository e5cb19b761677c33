"""What is true of a laboratory, as plain data: what probes should find, and what a simulator should be told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Matrix = tuple[tuple[float, ...], ...]
TCP_HEADERS = 52  # IPv4, TCP, and its timestamps
FRAME_HEADER = 14  # Ethernet's, which shapers count


@dataclass(frozen=True)
class Description:
    """Everything by [source][target]; rates in bytes/s of Ethernet frames, times in seconds.

    ``sites``: of each host. ``capacities``: of the resources that transfers share, by name. ``paths``: the resources that a
    transfer of many flows occupies while it lasts; none: unlimited. ``flow``: what a single flow can have at most, where several
    paths stand for one resource. ``latency``: one way, what the laboratory adds to the kernel's own tens of microseconds.
    ``loss``: of packets. ``dials``: whether the source can open a connection to the target.
    """

    topology: str
    hosts: int
    sites: tuple[int, ...]
    capacities: Mapping[str, float]
    paths: tuple[tuple[tuple[str, ...], ...], ...]
    flow: Matrix
    latency: Matrix
    loss: Matrix
    dials: tuple[tuple[bool, ...], ...]
    mtu: int

    @property
    def bandwidth(self) -> Matrix:
        """What one transfer has while it is alone; infinite where nothing is shaped, 0 from a host to itself."""
        return square(self.hosts, lambda s, t: 0.0 if s == t else self._least(s, t))

    def _least(self, source: int, target: int) -> float:
        return min((self.capacities[name] for name in self.paths[source][target]), default=math.inf)

    @property
    def payload_share(self) -> float:
        """How much of a rate TCP over IPv4 leaves for data in full packets."""
        return (self.mtu - TCP_HEADERS) / (self.mtu + FRAME_HEADER)


def square(n: int, value: Callable[[int, int], float]) -> Matrix:
    """The matrix of ``value(source, target)``."""
    return tuple(tuple(value(source, target) for target in range(n)) for source in range(n))


def describe(
    topology: str,
    n: int,
    path: Callable[[int, int], list[tuple[str, float | None]]],
    *,
    mtu: int,
    site: Callable[[int], int] = lambda host: 0,
    flow: Callable[[int, int], float] = lambda source, target: math.inf,
    latency: Callable[[int, int], float] = lambda source, target: 0.0,
    loss: Callable[[int, int], float] = lambda source, target: 0.0,
    dials: Callable[[int, int], bool] = lambda source, target: True,
) -> Description:
    """A description from what holds for each pair of two hosts; ``path``: resources with their rates (None: unlimited)."""
    capacities: dict[str, float] = {}
    paths: list[tuple[tuple[str, ...], ...]] = []
    for source in range(n):
        row: list[tuple[str, ...]] = []
        for target in range(n):
            limited = (
                [(name, rate) for name, rate in path(source, target) if rate is not None] if source != target else []
            )
            capacities.update(limited)
            row.append(tuple(name for name, _ in limited))
        paths.append(tuple(row))

    def alone(source: int, target: int) -> float:
        least = min((capacities[name] for name in paths[source][target]), default=math.inf)
        return 0.0 if source == target else min(least, flow(source, target))

    return Description(
        topology=topology,
        hosts=n,
        sites=tuple(site(host) for host in range(n)),
        capacities=capacities,
        paths=tuple(paths),
        flow=square(n, alone),
        latency=square(n, lambda s, t: latency(s, t) if s != t else 0.0),
        loss=square(n, lambda s, t: loss(s, t) if s != t else 0.0),
        dials=tuple(tuple(bool(dials(s, t)) for t in range(n)) for s in range(n)),
        mtu=mtu,
    )
