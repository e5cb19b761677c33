"""Local search for cheap directed cycles: 2-opt and 3-opt descent with kicks, over an asymmetric matrix of weights.

Johnson et al. 2002 ("Experimental analysis of heuristics for the ATSP") found iterated 3-opt to be within a few percent of the
best. Where a way back costs something else than the way out, turning a stretch of the cycle round changes all links in it; a
running sum along the cycle gives that change at once. All moves that break one given link are weighed together, as arrays.

What comes out is the same on all machines: arrays are only added and compared element by element, sums run from left to right.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt

from .chance import SplitMix64

Matrix = npt.NDArray[np.float64]
_Ranks = npt.NDArray[np.int64]

WINDOW = 96  # positions after the broken link among which the other two are looked for: bounds the work of one look
KICK_WINDOW = 36  # a kick that stays local is repaired in few moves, and keeps what is good elsewhere


class LocalSearch:
    """A directed cycle over the ranks 0 to n - 1, n >= 4, that gets cheaper.

    ``weights``: n x n, finite; ``order`` and ``total``: the cycle and the sum of its links' weights now.
    """

    def __init__(self, weights: Matrix, order: Iterable[int], seed: int):
        self.random = SplitMix64(seed)
        self._ranks: _Ranks = np.array(list(order), np.int64)
        self.n = len(self._ranks)
        width = min(self.n, WINDOW)
        self._after = np.where(
            np.arange(width - 1)[:, None] < np.arange(width - 1), 0.0, np.inf
        )  # first cut before second
        self._dirty: deque[int] = deque()
        self._waiting = bytearray(self.n)
        self.weigh(weights)

    @property
    def order(self) -> list[int]:
        return [int(rank) for rank in self._ranks]

    def weigh(self, weights: Matrix) -> None:
        """From now on these weights count."""
        self.weights = weights
        self._least = 1e-12 * float(weights.max()) * self.n  # less than that is rounding
        self.total = self._sum()

    def place(self, order: Iterable[int]) -> None:
        """Go on from this cycle."""
        self._ranks = np.array(list(order), np.int64)
        self.total = self._sum()

    def descend(self) -> None:
        """Until no move makes it cheaper."""
        self._look_at(self.order)
        self._settle()

    def step(self) -> bool:
        """A kick and the descent after it; undone if that leads uphill. Returns whether the cycle has got cheaper."""
        kept, before = self._ranks, self.total
        self._kick()
        self._settle()
        if self.total > before:
            self._ranks, self.total = kept, before
        return self.total < before

    def _sum(self) -> float:
        weights = self.weights[self._ranks, np.concatenate((self._ranks[1:], self._ranks[:1]))]
        total = 0.0
        for weight in weights.tolist():
            total += weight
        return total

    def _look_at(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            if not self._waiting[rank]:
                self._waiting[rank] = 1
                self._dirty.append(rank)

    def _settle(self) -> None:
        while self._dirty:
            rank = self._dirty.popleft()
            self._waiting[rank] = 0
            while self._improve(rank):
                pass
        self.total = self._sum()

    def _turn_to(self, place: int) -> None:
        """Write the cycle so that it begins at this position."""
        self._ranks = np.concatenate((self._ranks[place:], self._ranks[:place]))

    def _kick(self) -> None:
        """Three neighbouring stretches in reverse order, each in its own direction: no single move undoes that."""
        self._turn_to(self.random.below(self.n))
        reach = min(self.n - 1, KICK_WINDOW)
        cuts: set[int] = set()
        while len(cuts) < 3:
            cuts.add(1 + self.random.below(reach))
        first, second, third = sorted(cuts)
        ranks = self._ranks
        self._ranks = np.concatenate((ranks[second:third], ranks[first:second], ranks[:first], ranks[third:]))
        ends = (0, first - 1, first, second - 1, second, third - 1, third % self.n, self.n - 1)
        self._look_at(int(ranks[end]) for end in ends)

    def _improve(self, rank: int) -> bool:
        """The best move that breaks the link out of ``rank``, if one pays.

        With the cycle written as a, | first | second | rest: the cuts are after positions j and k.
        """
        self._turn_to(int((self._ranks == rank).argmax()) + 1)
        near = self._ranks[: min(self.n, WINDOW)]
        among = self.weights[near[:, None], near]
        leaving = self.weights[rank, near]
        link, back = among.diagonal(1), among.diagonal(-1)
        turned = np.array([0.0, *accumulate((back - link).tolist())])  # what turning the first positions round adds
        entering = among[:, 0]
        opened = float(leaving[0])

        from_j = leaving[1:] - link
        to_k = among[0, 1:] - link
        joined = among[:-1, 1:] + self._after
        reverse = leaving[:-1] + to_k + turned[:-1]
        swap = joined + from_j[:, None] + (entering[:-1] - link)
        swap_second_turned = joined + (entering[1:] - link - turned[1:])[:, None] + (leaving[:-1] - link + turned[:-1])
        swap_first_turned = among.T[:-1, :-1] + self._after + (from_j + turned[:-1])[:, None] + to_k

        best, kind, at = -self._least, -1, 0
        for number, change in enumerate((reverse, swap, swap_second_turned, swap_first_turned)):
            place = int(change.argmin())
            if (found := float(change.flat[place]) - opened) < best:
                best, kind, at = found, number, place
        if kind < 0:
            return False
        self._apply(kind, at, len(near) - 1)
        return True

    def _apply(self, kind: int, at: int, columns: int) -> None:
        ranks = self._ranks
        j, k = (at, at) if kind == 0 else divmod(at, columns)
        first, second = ranks[: j + 1], ranks[j + 1 : k + 1]
        if kind == 0:
            parts = [first[::-1]]
        elif kind == 1:
            parts = [second, first]
        elif kind == 2:
            parts = [second[::-1], first]
        else:
            parts = [second, first[::-1]]
        self._ranks = np.concatenate((*parts, ranks[k + 1 :]))
        self._look_at(int(ranks[end]) for end in (-1, 0, j, j + 1, k, k + 1))


def nearest_neighbours(weights: Matrix, first: int) -> list[int]:
    """The cycle that goes on from each rank to the cheapest one left; the lowest of equals."""
    order, left = [first], np.ones(len(weights), bool)
    left[first] = False
    for _ in range(len(weights) - 1):
        following = int(np.where(left, weights[order[-1]], np.inf).argmin())
        order.append(following)
        left[following] = False
    return order


def links_of(order: list[int]) -> list[tuple[int, int]]:
    """(from, to) of each link of the cycle, the closing one last."""
    return [*pairwise(order), (order[-1], order[0])]
