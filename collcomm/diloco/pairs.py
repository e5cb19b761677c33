"""Gossip in pairs on independent Poisson clocks (DADAO, arXiv 2208.00779): who meets whom, and what a meeting does.

Every edge of a graph has a clock of its own; when it rings, its two ends exchange their parameters and go on from the middle.
Nobody waits for anybody but the one that it meets. The clocks are drawn from a seed that all members know, so that no
message is needed to arrange a meeting; all members see one order of all meetings, in which they cannot wait in a circle.

Accelerated (continuous mixing with a mirror, as in DADAO and A2CiD2, arXiv 2306.08289): beside the parameters x each peer
keeps a mirror y. Between meetings x and y flow together, at a meeting x moves by alpha and y by a larger alpha'. On a graph with
a long way round (a ring) differences then die out in about the square root of the number of meetings; where everybody may meet
everybody there is nothing to gain, and alpha' is alpha.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .flat import Array

MOST_MEMBERS = 1024
Edge = tuple[int, int]


@dataclass(frozen=True)
class Meeting:
    """``one`` and ``other``, places in the group (0 to n - 1), meet ``at`` so many inner steps from the beginning."""

    at: float
    one: int
    other: int

    def partner(self, place: int) -> int | None:
        """Whom ``place`` meets; None where it takes no part."""
        return {self.one: self.other, self.other: self.one}.get(place)


def complete(n: int) -> list[Edge]:
    """Everybody may meet everybody."""
    return list(combinations(range(n), 2))


def ring(n: int) -> list[Edge]:
    """Everybody may meet two neighbours."""
    return complete(n) if n < 3 else [(place, (place + 1) % n) for place in range(n)]


def meetings(n: int, edges: Sequence[Edge], steps: int, rate: float, seed: Sequence[int]) -> list[Meeting]:
    """All meetings of ``steps`` inner steps, in their order.

    :param rate: meetings that a peer has in an inner step, on average over the peers.
    :param seed: the same at all members.
    :raises ValueError: an edge of nobody, a rate or a number of members that makes no sense.
    """
    checked_edges(n, edges)
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"rate must be a positive number of meetings in an inner step, not {rate!r}")
    if not edges:
        return []
    chance = random.Random(repr(tuple(seed)))
    whole_rate = rate * n / 2
    found, at = [], 0.0
    while (at := at + chance.expovariate(whole_rate)) <= steps:
        found.append(Meeting(at, *edges[chance.randrange(len(edges))]))
    return found


def checked_edges(n: int, edges: Sequence[Edge]) -> None:
    """Raises ValueError unless edges lead between different places from 0 to n - 1, and from everybody to everybody."""
    if not 1 <= n <= MOST_MEMBERS:
        raise ValueError(f"gossip is for 1 to {MOST_MEMBERS} members, not {n}")
    reached, ahead = {0}, [0]
    for edge in edges:
        if len(edge) != 2 or edge[0] == edge[1] or not all(0 <= place < n for place in edge):
            raise ValueError(f"an edge leads between two different places from 0 to {n - 1}, not {edge!r}")
    while ahead:
        place = ahead.pop()
        near = {other for edge in edges if place in edge for other in edge} - reached
        reached |= near
        ahead += near
    if len(reached) < n:
        raise ValueError(
            f"no edges lead from place 0 to place {min(set(range(n)) - reached)}: their parameters would never agree"
        )


@dataclass(frozen=True)
class Mixing:
    """``alpha`` of x and ``mirror`` of y at a meeting; ``flow`` between meetings, per inner step. Without a flow there is no
    mirror."""

    alpha: float = 0.5
    mirror: float = 0.5
    flow: float = 0.0


def accelerated(n: int, edges: Sequence[Edge], rate: float) -> Mixing:
    """eta = 1 / (2 sqrt(chi1 chi2)), alpha' = sqrt(chi1 / chi2) / 2, of the graph's Laplacian, weighed by each edge's rate:
    chi1 is the inverse of its second eigenvalue, chi2 half the largest effective resistance of an edge."""
    checked_edges(n, edges)
    if n < 2:
        return Mixing()
    weight = rate * n / 2 / len(edges)
    laplacian = np.zeros((n, n))
    for one, other in edges:
        laplacian[[one, other], [one, other]] += weight
        laplacian[one, other] -= weight
        laplacian[other, one] -= weight
    inverse = np.linalg.pinv(laplacian)
    chi1 = 1 / float(np.linalg.eigvalsh(laplacian)[1])
    chi2 = max(float(inverse[i, i] + inverse[j, j] - 2 * inverse[i, j]) for i, j in edges) / 2
    if chi1 <= chi2 * 1.0001:
        return Mixing()
    return Mixing(0.5, math.sqrt(chi1 / chi2) / 2, 1 / (2 * math.sqrt(chi1 * chi2)))


class Mixed:
    """x and y of one peer. Inner steps move x where the user keeps it; y follows by the same move."""

    def __init__(self, x: Array, mixing: Mixing):
        self.mixing = mixing
        self.x = x.copy()
        self._y = x.copy() if mixing.flow else None
        self._at = 0.0

    def moved_to(self, x: Array) -> None:
        """Inner steps have led to ``x``."""
        if self._y is not None:
            self._y += x - self.x
        np.copyto(self.x, x)

    def flow_to(self, at: float) -> None:
        """Let x and y flow together until ``at``, in inner steps. Earlier than before: nothing happens."""
        if self._y is None or at <= self._at:
            return
        kept = self.x.dtype.type(math.exp(-2 * self.mixing.flow * (at - self._at)))
        middle, apart = (self.x + self._y) / 2, (self.x - self._y) / 2 * kept
        np.add(middle, apart, out=self.x)
        np.subtract(middle, apart, out=self._y)
        self._at = at

    def meet(self, theirs: Array) -> None:
        """Exchange with one whose x is ``theirs``."""
        apart = self.x - theirs
        self.x -= self.x.dtype.type(self.mixing.alpha) * apart
        if self._y is not None:
            self._y -= self.x.dtype.type(self.mixing.mirror) * apart
