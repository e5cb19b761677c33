"""Ring order over links that differ: the directed cycle through all ranks with the best narrowest link, or the least sum.

As in PCCL (arXiv 2505.14065), the order of a ring is an asymmetric travelling salesman's tour over measured links: exact for few
ranks (Held and Karp 1962), local search beyond (`localsearch`). A ring moves as fast as its slowest link, so "bottleneck" first
maximises the smallest bandwidth, then minimises the sum of latencies (without them, of 1 / bandwidth); "sum" minimises only that.

Matrices are ``matrix[source][target]``; the diagonal does not count. A link that nothing sensible is known of (None, NaN, inf,
0, negative, out of all bounds) is taken to be as bad as the worst one known. Equal input gives
equal orders on all machines. An order is a tuple of ranks that begins with its least.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from .heldkarp import held_karp
from .localsearch import LocalSearch, Matrix, links_of, nearest_neighbours
from .patching import patched_cover

Objective = Literal["bottleneck", "sum"]
Order = tuple[int, ...]
Value = tuple[float, ...]  # smaller is better: (largest cost, sum) or (sum,)
Given = Sequence[Sequence[float | None]]

EXACT_RANKS = 16  # up to here, as in PCCL, the order is exact: 4 MB and a tenth of a second
MOST_RANKS = 2048
BOUNDS = (1e-12, 1e15)  # of a bandwidth or a cost: what is beyond was not measured
_OBJECTIVES = ("bottleneck", "sum")
_STARTS = 4  # nearest-neighbour cycles
_PATIENCE = 24  # kicks for one target; doubled from sweep to sweep


# -- matrices ----------------------------------------------------------------------------------------------------------


def _number(entry: Any, what: str) -> float:
    if entry is None:
        return math.nan
    try:
        return float(entry)
    except OverflowError:
        return math.nan
    except (TypeError, ValueError):
        raise ValueError(f"{what}: {entry!r} is no number; give None for a link that has not been measured") from None


def _known(given: Given, what: str, *, higher_is_better: bool) -> Matrix:
    """As an array in which nothing is missing."""
    rows = [list(row) for row in given]
    n = len(rows)
    if n > MOST_RANKS:
        raise ValueError(f"{what}: {n} ranks are more than the {MOST_RANKS} that an order is sought for")
    if wrong := [number for number, row in enumerate(rows) if len(row) != n]:
        raise ValueError(
            f"{what} must be square, a row and a column for each of {n} ranks, but row {wrong[0]} has {len(rows[wrong[0]])}"
        )
    matrix = np.array([[_number(entry, what) for entry in row] for row in rows], np.float64).reshape(n, n)
    good = (matrix >= BOUNDS[0]) & (matrix <= BOUNDS[1])
    np.fill_diagonal(good, False)
    worst = 1.0
    if good.any():
        worst = float(matrix[good].min() if higher_is_better else matrix[good].max())
    return np.where(good, matrix, worst)


def _same_size(matrix: Matrix, other: Matrix, what: str) -> None:
    if matrix.shape != other.shape:
        raise ValueError(
            f"{what} is for {len(other)} ranks, the other matrix for {len(matrix)}; give both for the same ranks"
        )


# -- orders ------------------------------------------------------------------------------------------------------------


def normal(order: Iterable[int]) -> Order:
    """The same cycle, beginning with its least rank."""
    ranks = tuple(order)
    first = ranks.index(min(ranks)) if ranks else 0
    return ranks[first:] + ranks[:first]


def _length(order: list[int], cost: list[list[float]]) -> float:
    total = 0.0
    if len(order) > 1:
        for source, target in links_of(order):
            total += cost[source][target]
    return total


def insert(order: Sequence[int], bandwidth: Given, newcomers: Sequence[int]) -> Order:
    """The order with ``newcomers`` in it, one after the other, each at the place where it costs least and breaks one link.

    Least: the ring's slowest link is as fast as can be; among equals 1 / bandwidth grows least; among equals the first.

    :raises ValueError: a newcomer that is in the order, or one that the matrix does not know.
    """
    rates = _known(bandwidth, "bandwidth", higher_is_better=True).tolist()
    ring = list(normal(order))
    for newcomer in newcomers:
        if newcomer in ring:
            raise ValueError(f"rank {newcomer} is in the order; newcomers are ranks that are not")
        if not (0 <= newcomer < len(rates) and all(0 <= rank < len(rates) for rank in ring)):
            raise ValueError(
                f"the order and newcomer {newcomer} name ranks that the matrix of {len(rates)} does not know"
            )
        ring.insert(_place(ring, rates, newcomer), newcomer)
    return normal(ring)


def _place(ring: list[int], rates: list[list[float]], newcomer: int) -> int:
    if len(ring) < 2:
        return len(ring)
    links = [rates[source][target] for source, target in links_of(ring)]
    slowest, second = sorted(links)[:2]
    found = []
    for place, (source, target) in enumerate(links_of(ring)):
        to, on = rates[source][newcomer], rates[newcomer][target]
        others = second if links[place] == slowest else slowest
        found.append((-min(others, to, on), 1 / to + 1 / on - 1 / links[place], place + 1))
    return min(found)[2]


# -- exact -------------------------------------------------------------------------------------------------------------


def _exact(largest: Matrix | None, summed: Matrix) -> Order:
    """The best order of up to `EXACT_RANKS` ranks: the least largest cost and among those the least sum, or the least sum."""
    if len(summed) < 3:
        return tuple(range(len(summed)))
    if largest is not None:  # first the threshold, then the least sum among links that keep to it
        cycle = held_karp(largest, np.maximum)
        threshold = max(float(largest[source, target]) for source, target in links_of(cycle))
        summed = np.where(largest <= threshold, summed, np.inf)
    return tuple(held_karp(summed, np.add))


# -- search ------------------------------------------------------------------------------------------------------------


def _search(
    largest: Matrix | None, summed: Matrix, start: Sequence[int] | None, steps: int
) -> Iterator[tuple[Value, Order]]:
    """Ever better orders: after each step (a millisecond at 64 ranks), the value and order of the best one until then."""
    n = len(summed)
    if start is not None and sorted(start) != list(range(n)):
        raise ValueError(f"start must hold each of the ranks 0 to {n - 1} once")
    found = _Best(largest, summed)
    found.offer(range(n) if start is None else start)
    if n < 4:
        walk = _few(largest, summed, found)
    elif largest is None:
        walk = _sum_walk(summed, found)
    else:
        walk = _bottleneck_walk(largest, summed, found)
    yield found.value, found.order
    for _ in range(steps):
        next(walk)
        yield found.value, found.order


class _Best:
    """The best order offered until now."""

    def __init__(self, largest: Matrix | None, summed: Matrix):
        self._largest: list[list[float]] | None = None if largest is None else largest.tolist()
        self._summed: list[list[float]] = summed.tolist()
        self.order: Order = ()
        self.value: Value = (math.inf,)

    def offer(self, order: Iterable[int]) -> bool:
        """Returns whether it is better than all before."""
        offered = normal(order)
        value: Value = (_length(list(offered), self._summed),)
        if self._largest is not None:
            links = links_of(list(offered)) if len(offered) > 1 else []
            value = (max((self._largest[source][target] for source, target in links), default=-math.inf), *value)
        if value < self.value or not self.order:
            self.value, self.order = value, offered
            return True
        return False


def _few(largest: Matrix | None, summed: Matrix, found: _Best) -> Iterator[None]:
    found.offer(_exact(largest, summed))
    while True:
        yield


def _starts(weights: Matrix, found: _Best, search: LocalSearch) -> Iterator[None]:
    """Descents from the order given, a patched cover and nearest-neighbour cycles; then the search stands at the best."""
    least, cheapest = search.total, search.order
    n = len(weights)
    for number in range(_STARTS + 2):
        if number == 1:
            search.place(patched_cover(weights))
        elif number:
            search.place(nearest_neighbours(weights, (number - 2) * n // _STARTS))
        search.descend()
        found.offer(search.order)
        if search.total < least:
            least, cheapest = search.total, search.order
        yield
    search.place(cheapest)


def _sum_walk(summed: Matrix, found: _Best) -> Iterator[None]:
    search = LocalSearch(summed, found.order, seed=0)
    yield from _starts(summed, found, search)
    patience = 4 * len(summed)
    idle = 0
    while True:
        idle = 0 if search.step() else idle + 1
        found.offer(search.order)
        if idle > patience:  # a fresh start every other time, back to the best in between
            idle = 0
            if search.order != list(found.order) and normal(search.order) != found.order:
                search.place(found.order)
            else:
                search.place(nearest_neighbours(summed, search.random.below(len(summed))))
                search.descend()
                found.offer(search.order)
        yield


def _bottleneck_walk(largest: Matrix, summed: Matrix, found: _Best) -> Iterator[None]:
    """Targets by bisection between what no cycle can beat and the best known; each is tried by making cycles cheap whose weight
    is first the links beyond the target, then the sum. In between, the sum alone is improved at the best target."""
    n = len(largest)
    apart = np.where(np.eye(n, dtype=bool), np.inf, largest)
    levels = np.unique(largest[~np.eye(n, dtype=bool)])  # the thresholds there are, rising
    grade = np.searchsorted(levels, largest).astype(np.float64) / len(levels)
    floor = max(
        float(apart.min(axis=0).max()), float(apart.min(axis=1).max())
    )  # every rank needs a link in and a link out
    scale = float(summed.max()) or 1.0

    def weights(target: float) -> Matrix:
        return np.where(largest > target, 4.0 * n * (1 + grade), 0.0) + summed / scale

    search = LocalSearch(weights(floor), found.order, seed=0)
    yield from _starts(search.weights, found, search)
    patience = _PATIENCE
    while True:
        low, target = int(np.searchsorted(levels, floor)), floor
        while low < (high := int(np.searchsorted(levels, found.value[0]))):
            search.weigh(weights(target))
            search.place(patched_cover(search.weights))
            search.descend()
            for _ in range(patience):
                found.offer(search.order)
                if found.value[0] <= target:
                    break
                search.step()
                yield
            else:
                found.offer(search.order)
            if found.value[0] > target:
                low = int(np.searchsorted(levels, target)) + 1
            high = int(np.searchsorted(levels, found.value[0]))
            target = float(levels[(low + high) // 2 if low < high else high])
        search.weigh(weights(found.value[0]))
        search.place(found.order)
        search.descend()
        for _ in range(2 * patience):
            found.offer(search.order)
            search.step()
            yield
        found.offer(search.order)
        patience *= 2


# -- a ring ------------------------------------------------------------------------------------------------------------


def default_steps(n: int, objective: Objective = "bottleneck") -> int:
    """Steps that are worth taking at once for ``n`` ranks: a second at 64, two or three at some hundreds."""
    most = 600 if objective == "sum" else 400
    return max(20, min(most, 64 * most // max(1, n)))


def ring_order(
    bandwidth: Given,
    latency: Given | None = None,
    objective: Objective = "bottleneck",
    steps: int | None = None,
    start: Sequence[int] | None = None,
) -> Order:
    """The order in which ranks should stand round a ring, rank 0 first: exact up to 16, by local search beyond.

    ``bandwidth``: bytes/s, ``latency``: seconds, each [source][target]. "bottleneck": the slowest link is as fast as can be, and
    among those orders the sum of latencies (of 1 / bandwidth, without them) is least; "sum": that sum is least. ``steps``: of the
    search (`default_steps`). ``start``: the order in use; kept unless a better one is found.

    :raises ValueError: matrices that are not square or not alike, an unknown objective, a wrong ``start``.
    """
    if objective not in _OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(_OBJECTIVES)}, not {objective!r}")
    rates = _known(bandwidth, "bandwidth", higher_is_better=True)
    summed = 1 / rates if latency is None else _known(latency, "latency", higher_is_better=False)
    _same_size(rates, summed, "latency")
    largest = -rates if objective == "bottleneck" else None
    n = len(rates)
    if n <= EXACT_RANKS:
        exact = _exact(largest, summed)
        if start is None:
            return exact
        found = _Best(largest, summed)
        found.offer(start)
        found.offer(exact)
        return found.order
    *_, (_, order) = _search(largest, summed, start, default_steps(n, objective) if steps is None else steps)
    return order
