"""The network that measured links make: what is missing is completed, what cannot be is put right, and sites are found.

A probe measures one link while the others are idle, so it does not see what links share. That is taken from the structure:
what a host sends and receives goes through its card, and what goes from one site to another through one trunk, whose capacity
is that of the best link through it. This errs on the safe side: a plan that crosses a trunk seldom is never bad.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

from ..types import LinkRow
from .choice import LOOPBACK
from .survey import plausible

UNKNOWN_LATENCY, UNKNOWN_BANDWIDTH = 100e-6, 1.25e9  # of a network of which nothing was measured
SITE_GAP = 3.0  # between latencies within sites and between them
SITE_LATENCY = 1e-3  # seconds one way; what is nearer than that is one site, unless the user says otherwise
OVERHEAD = 15e-6  # seconds of a rank's own time per message


@dataclass(frozen=True)
class Place:
    """Where a member is: its ``host`` (a number), and the ``site`` that the user has named, if he has."""

    member: int
    host: int
    site: str = ""


class Measured:
    """A `Network` of the members at ``places``, in the order of ranks. ``rows`` about others are passed over. ``streams``: of the
    links that were measured, by (source, target)."""

    overhead = OVERHEAD
    compute = LOOPBACK.compute

    def __init__(self, places: Sequence[Place], rows: Iterable[LinkRow]):
        self.n = len(places)
        self.hosts = tuple(place.host for place in places)
        rank_of = {place.member: rank for rank, place in enumerate(places)}
        known = {
            (rank_of[row.source], rank_of[row.target]): row
            for row in rows
            if row.source in rank_of and row.target in rank_of and plausible(row)
        }
        latencies = {link: row.latency for link, row in known.items()}
        bandwidths = {link: row.bandwidth for link, row in known.items()}
        self.streams = {link: row.streams for link, row in known.items()}
        self.sites = _sites(places, _completed(self.hosts, [self.hosts], latencies, UNKNOWN_LATENCY))
        alike = [self.hosts, self.sites]
        self.latencies = _completed(self.hosts, alike, latencies, UNKNOWN_LATENCY)
        self.bandwidths = _completed(self.hosts, alike, bandwidths, UNKNOWN_BANDWIDTH)
        for one in range(self.n):
            for other in range(self.n):
                if self.hosts[one] == self.hosts[other]:
                    self.latencies[one][other], self.bandwidths[one][other] = LOOPBACK.latency, LOOPBACK.bandwidth
        self._rates: list[float] = []
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._cards = self._best_of_each_host()
        self._cables, self._trunks = self._best(self.hosts), self._best(self.sites)
        self._paths = [[self._make_path(i, j) for j in range(self.n)] for i in range(self.n)]
        self.capacities: Sequence[float] = tuple(self._rates)

    def latency(self, source: int, target: int) -> float:
        return self.latencies[source][target]

    def path(self, source: int, target: int) -> tuple[int, ...]:
        return self._paths[source][target]

    def _make_path(self, source: int, target: int) -> tuple[int, ...]:
        here, there = self.hosts[source], self.hosts[target]
        if here == there:
            return (self._resource("memory", here, here, LOOPBACK.bandwidth),)
        home, away = self.sites[source], self.sites[target]
        path = [
            self._resource("out", here, here, self._cards["out", here]),
            self._resource("link", here, there, self._cables[here, there]),
            self._resource("in", there, there, self._cards["in", there]),
        ]
        if home != away:
            path.append(self._resource("trunk", home, away, self._trunks[home, away]))
        return tuple(path)

    def _resource(self, kind: str, one: int, other: int, capacity: float) -> int:
        key = (kind, one, other)
        if key not in self._numbers:
            self._numbers[key] = len(self._rates)
            self._rates.append(capacity)
        return self._numbers[key]

    def _best(self, places: Sequence[int]) -> dict[tuple[int, int], float]:
        """The bandwidth of the best link from each of ``places`` to each other."""
        best: dict[tuple[int, int], float] = {}
        for i in range(self.n):
            for j in range(self.n):
                pair = places[i], places[j]
                best[pair] = max(best.get(pair, 0.0), self.bandwidths[i][j])
        return best

    def _best_of_each_host(self) -> dict[tuple[str, int], float]:
        """A host's card is as fast as its best link."""
        best: dict[tuple[str, int], float] = {}
        for i in range(self.n):
            for j in range(self.n):
                if self.hosts[i] != self.hosts[j]:
                    out, into = ("out", self.hosts[i]), ("in", self.hosts[j])
                    best[out] = max(best.get(out, 0.0), self.bandwidths[i][j])
                    best[into] = max(best.get(into, 0.0), self.bandwidths[i][j])
        return best


def _completed(
    hosts: Sequence[int], alike: Sequence[Sequence[int]], known: dict[tuple[int, int], float], unknown: float
) -> list[list[float]]:
    """A value for each ordered pair of ranks: measured; else the median of pairs that are like it in the first of these ways in
    which any is: from the same place to the same, by each of ``alike`` in turn; the other way round; across places or
    not; any pair. ``unknown`` if nothing was measured."""
    n = len(hosts)
    classes: list[dict[object, list[float]]] = [{} for _ in range(2 * len(alike) + 2)]

    def keys(i: int, j: int) -> list[object]:
        found: list[object] = []
        for places in alike:
            found += [(places[i], places[j]), frozenset((places[i], places[j]))]
        return [*found, alike[-1][i] != alike[-1][j], None]

    for (i, j), value in known.items():
        for kind, key in zip(classes, keys(i, j), strict=True):
            kind.setdefault(key, []).append(value)
    medians = [{key: median_low(values) for key, values in kind.items()} for kind in classes]

    def like(i: int, j: int) -> float:
        for kind, key in zip(medians, keys(i, j), strict=True):
            if key in kind:
                return kind[key]
        return unknown

    return [[known.get((i, j), like(i, j)) for j in range(n)] for i in range(n)]


def _sites(places: Sequence[Place], latencies: Sequence[Sequence[float]]) -> tuple[int, ...]:
    """A number for each rank's site: near each other by latency and not said to be apart, or said to be together."""
    n = len(places)
    near = _nearness(places, latencies)
    site = list(range(n))

    def root(rank: int) -> int:
        while site[rank] != rank:
            rank = site[rank]
        return rank

    names = {rank: place.site for rank, place in enumerate(places)}  # of each root's site, as far as it has one

    def join(i: int, j: int) -> None:
        one, other = sorted((root(i), root(j)))
        if one != other and not (names[one] and names[other] and names[one] != names[other]):
            site[other] = one
            names[one] = names[one] or names[other]

    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    for i, j in pairs:
        if places[i].host == places[j].host or (names[i] and places[i].site == places[j].site):
            join(i, j)
    for i, j in pairs:
        if max(latencies[i][j], latencies[j][i]) <= near:
            join(i, j)
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(root(rank), len(numbers)) for rank in range(n))


def _nearness(places: Sequence[Place], latencies: Sequence[Sequence[float]]) -> float:
    """The latency up to which two ranks are in one site: below the widest gap between what occurs, if it is wide and far
    out."""
    found = sorted(
        max(latencies[i][j], latencies[j][i])
        for i in range(len(places))
        for j in range(i + 1, len(places))
        if places[i].host != places[j].host
    )
    gaps = [(after / before, before) for before, after in pairwise(found) if after > SITE_LATENCY]
    widest, below = max(gaps, default=(1.0, math.inf))
    return below if widest >= SITE_GAP else math.inf
