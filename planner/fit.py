"""From measured links to a traffic plan: the order of the ring, and by kind and size the algorithm that costs least.

Each candidate is costed on its own schedules (`simulate`) over the network that was measured, not by a formula for links that
are alike; so one slow link, a trunk between sites and ranks that share a card are all seen. It is done once, by one
process for all members, and what comes out is data: nobody has to come to the same floating-point numbers as the others.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from math import inf
from statistics import median_low
from typing import Any, Literal

from ..collectives import BY_MESSAGES, KINDS
from ..types import LinkClass, LinkRow, PlannedChoice, TrafficPlan
from .commit import commit_seconds
from .measured import UNKNOWN_BANDWIDTH, UNKNOWN_LATENCY, Measured, Place
from .order import default_steps, insert, ring_order
from .program import even_bounds, programs
from .simulate import predict, run
from .strategy import CUT, parameters

SMALLEST, LARGEST = 64, 64 << 20  # sizes that choices are made for, by powers of two
# Sizes that are simulated; in between, times are taken to be linear.
SAMPLES = (64, 4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20)
FEW_SAMPLES = (64, 64 << 10, 1 << 20, 16 << 20, 64 << 20)  # for more than `MANY` ranks, whose schedules are long
MANY = 8
FINE = (16, 32)  # segments that are tried as well where links are long: the sooner the first has crossed, the better
LARGE = 1 << 20
MOST_RANKS = 64  # of which schedules are costed one by one; among more, closed forms choose
MOST_DIRECT = 32  # the same for algorithms in which everybody talks to everybody
WHOLE = ("direct", "star")  # nobody sends on what he receives: messages need not be cut to be costed
ORDER_BYTES = 4 << 20  # what orders are compared by
HUB_BYTES = 1 << 16
STAYS = 0.97  # of the time that the present order takes; what saves less is not worth new links
# What a simulation leaves out, as measured over simulated time against that of a ring: two messages at once from each rank, that
# share its card and its processor.
UNSEEN = {"bidirectional": 1.12}
OBJECTIVES: tuple[Literal["bottleneck"], Literal["sum"]] = ("bottleneck", "sum")


def fit(
    places: Sequence[Place],
    rows: Iterable[LinkRow],
    previous: Sequence[int] = (),
    effort: int = 0,
    kinds: Sequence[str] = KINDS,
) -> TrafficPlan:
    """The plan for the members at ``places``, by rank, without a revision (0). ``previous``: the ids of the last plan's
    order, from which the search goes on; ``effort``: 0, and more for a longer search. Raises ValueError for fewer than two
    members."""
    if len(places) < 2:
        raise ValueError(f"a plan is for two members or more, not {len(places)}")
    network = Measured(places, rows)
    ids = [place.member for place in places]
    order = _order(network, [ids.index(member) for member in dict.fromkeys(previous) if member in ids], effort)
    hub = _hub(network)
    many = len(set(network.sites)) > 1
    groups = network.sites if many else network.hosts
    within, across = _typical(network, same_site=True), _typical(network, same_site=False)
    return TrafficPlan(
        0,
        tuple(ids[rank] for rank in order),
        tuple(network.sites[rank] for rank in order),
        ids[hub],
        within,
        across,
        tuple(
            choice
            for kind in (kinds if network.n <= MOST_RANKS else ())
            for choice in _choices(network, kind, order, groups, hub, across if many else within)
        ),
    )


def _order(network: Measured, previous: list[int], effort: int) -> tuple[int, ...]:
    """The present order, with newcomers where they cost least, unless another is clearly better."""
    n = network.n
    newcomers = [rank for rank in range(n) if rank not in previous]
    start = insert(previous, network.bandwidths, newcomers) if previous else None
    steps = default_steps(n) * (1 + effort)
    found = [
        ring_order(network.bandwidths, network.latencies, objective=objective, steps=steps, start=start)
        for objective in OBJECTIVES
    ]
    found.append(tuple(range(n)))
    seconds, best = min((_round_trip(network, order), order) for order in found)
    if start is not None and _round_trip(network, start) * STAYS <= seconds:
        return start
    return best


def _round_trip(network: Measured, order: tuple[int, ...]) -> float:
    near = LinkClass(0.0, 1.0)
    options = parameters("all_reduce", "ring", ORDER_BYTES, 1, order, network.hosts, 0, near)
    return predict("all_reduce", "ring", network.n, ORDER_BYTES, network, **options).seconds


def _hub(network: Measured) -> int:
    """The rank in the middle of whose star a message of a usual size is soonest everywhere."""

    def cost(hub: int) -> float:
        others = [rank for rank in range(network.n) if rank != hub]
        trips = max(network.latencies[rank][hub] + network.latencies[hub][rank] for rank in others)
        rates = [1 / network.bandwidths[rank][hub] + 1 / network.bandwidths[hub][rank] for rank in others]
        return trips + HUB_BYTES * sum(rates)

    return min(range(network.n), key=cost)


def _typical(network: Measured, same_site: bool) -> LinkClass:
    """A link between hosts inside a site, or between sites; the other kind where there is none of these."""
    pairs = [(i, j) for i in range(network.n) for j in range(network.n) if network.hosts[i] != network.hosts[j]]
    chosen = [(i, j) for i, j in pairs if (network.sites[i] == network.sites[j]) is same_site] or pairs
    if not chosen:
        return LinkClass(UNKNOWN_LATENCY, UNKNOWN_BANDWIDTH)
    return LinkClass(
        median_low([network.latencies[i][j] for i, j in chosen]),
        median_low([network.bandwidths[i][j] for i, j in chosen]),
        max(network.streams.get(link, 1) for link in chosen),
    )


def _choices(
    network: Measured, kind: str, order: tuple[int, ...], groups: tuple[int, ...], hub: int, far: LinkClass
) -> Iterator[PlannedChoice]:
    """For ascending sizes. The commit round, which all have alike, is in the seconds."""
    commit = commit_seconds(network)
    samples = SAMPLES if network.n <= MANY else FEW_SAMPLES
    curves: dict[tuple[str, int], Curve] = {}
    for algorithm, cuts in _candidates(network, kind, groups):
        options = partial(parameters, kind, algorithm, order=order, sites=groups, hub=hub, cuts=cuts, far=far)
        sizes = [nbytes for nbytes in samples if nbytes >= LARGE or cuts not in FINE]
        unseen = UNSEEN.get(algorithm, 1.0)
        costs = {nbytes: unseen * _cost(network, kind, algorithm, nbytes, options(nbytes=nbytes)) for nbytes in sizes}
        curves[algorithm, cuts] = Curve(costs)
    nbytes = SMALLEST
    while curves and nbytes <= LARGEST:
        (seconds, _, _), (algorithm, cuts) = min(
            ((curve.at(nbytes), *candidate), candidate) for candidate, curve in curves.items()
        )
        yield PlannedChoice(kind, nbytes if nbytes > SMALLEST else 0, algorithm, cuts, seconds + commit)
        nbytes *= 2


def _candidates(network: Measured, kind: str, groups: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    """Algorithms, with the ways in which they may cut."""
    for kind_of, algorithm in sorted(BY_MESSAGES):
        if kind_of != kind or (algorithm == "hierarchical" and not 1 < len(set(groups)) < network.n):
            continue
        if algorithm == "direct" and network.n > MOST_DIRECT:
            continue
        if (kind, algorithm) not in CUT or network.n <= MANY:
            yield algorithm, 1
        if (kind, algorithm) in CUT:
            yield algorithm, 0
            if algorithm == "hierarchical" and network.n <= MANY:
                yield from ((algorithm, cuts) for cuts in FINE)


def _cost(network: Measured, kind: str, algorithm: str, nbytes: int, options: dict[str, Any]) -> float:
    found = programs(kind, algorithm, network.n, 0, **options)
    parts = 1 if algorithm in WHOLE and nbytes >= LARGE else None
    return run(found, lambda program: even_bounds(program, nbytes), network, parts=parts).seconds


class Curve:
    """Seconds by size, from ``costs`` at some sizes: straight lines between these, nothing below the first."""

    def __init__(self, costs: dict[int, float]):
        self._points = sorted(costs.items())

    def at(self, nbytes: int) -> float:
        if nbytes < self._points[0][0]:
            return inf
        place = bisect_right(self._points, (nbytes, inf))
        left, low = self._points[place - 1]
        if place == len(self._points):
            return low
        right, high = self._points[place]
        return low + (high - low) * (nbytes - left) / (right - left)
