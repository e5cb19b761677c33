"""Gradient coding (Tandon et al., arXiv 1612.03301): each part of the batch at several workers, so that stragglers do not matter.

The batch is cut into n parts for n workers. Each worker computes the gradients of s + 1 of them and sends one linear
combination; from those of any n - s workers the sum of all parts is found.

*Fractional repetition*: workers in n / (s + 1) groups; all of a group have the same s + 1 parts and send their plain sum. The
result has the same bits whoever straggles. Needs s + 1 to divide n. *Cyclic*: worker i has the parts i to i + s; coefficients
come from the null space of a random matrix. Any n and s, the sum exact but for rounding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from itertools import combinations

import numpy as np

from .flat import Array

MOST_WORKERS = 256
MOST_RESIDUAL = 1e-10  # of a sum of ones; codes with more are refused
MARGIN = 10  # for the sets of late workers that were not tried when the code was drawn
TRIED_SETS = 1000
DRAWS = 20


class GradientCode(ABC):
    """``n`` workers and as many parts; any ``s`` workers may be late. ``matrix[worker, part]``: coefficients, in doubles."""

    def __init__(self, n: int, s: int):
        if not 1 <= n <= MOST_WORKERS:
            raise ValueError(f"a gradient code is for 1 to {MOST_WORKERS} workers, not {n!r}")
        if not 0 <= s < n:
            raise ValueError(f"s is {s!r}, but of {n} workers at most {n - 1} may be late: give s from 0 to {n - 1}")
        self.n, self.s = n, s
        self.matrix: Array = np.zeros((n, n))

    def parts(self, worker: int) -> list[int]:
        """Of the batch, that ``worker`` computes."""
        return [int(part) for part in np.flatnonzero(self.matrix[worker])]

    def encode(self, worker: int, gradients: Mapping[int, Array]) -> Array:
        """What ``worker`` sends, in doubles, of its parts' gradients. Raises ValueError where one is missing."""
        missing = set(self.parts(worker)) - set(gradients)
        if missing:
            raise ValueError(f"worker {worker} has to give the gradient of part {min(missing)}, too")
        first, *others = self.parts(worker)
        total = gradients[first].astype(np.float64) * self.matrix[worker, first]
        for part in others:
            total += self.matrix[worker, part] * gradients[part]
        return total

    def decodes(self, present: Collection[int]) -> bool:
        """Whether the sum can be found from these workers."""
        try:
            self.weights(present)
        except ValueError:
            return False
        return True

    @abstractmethod
    def weights(self, present: Collection[int]) -> dict[int, float]:
        """By worker, with which its combination is multiplied, so that all together are the sum of all parts. Raises ValueError
        where these workers are not enough."""

    def _too_few(self, present: Collection[int]) -> ValueError:
        return ValueError(
            f"the sum cannot be found from workers {sorted(present)}: any {self.n - self.s} of {self.n} would be enough"
        )


class FractionalRepetition(GradientCode):
    """Raises ValueError unless s + 1 divides n."""

    def __init__(self, n: int, s: int):
        super().__init__(n, s)
        if n % (s + 1):
            raise ValueError(
                f"fractional repetition needs s + 1 to divide n, and {s + 1} does not divide {n}: use Cyclic"
            )
        for worker in range(n):
            first = worker // (s + 1) * (s + 1)
            self.matrix[worker, first : first + s + 1] = 1

    def weights(self, present: Collection[int]) -> dict[int, float]:
        found: dict[int, float] = {}
        for first in range(0, self.n, self.s + 1):
            group = [worker for worker in range(first, first + self.s + 1) if worker in present]
            if not group:
                raise self._too_few(present)
            found[group[0]] = 1.0
        return found


class Cyclic(GradientCode):
    """``seed``: of the random matrix; the same at all workers. Raises ValueError where no well-conditioned code is found."""

    def __init__(self, n: int, s: int, seed: int = 0):
        super().__init__(n, s)
        chance = np.random.default_rng(seed)
        for _ in range(DRAWS):
            self._draw(chance)
            if self._sound(chance):
                return
        raise ValueError(
            f"no cyclic code for {s} of {n} workers was found that is exact to {MOST_RESIDUAL}: give a smaller s"
        )

    def weights(self, present: Collection[int]) -> dict[int, float]:
        workers = sorted(set(present) & set(range(self.n)))
        if len(workers) < self.n - self.s:
            raise self._too_few(present)
        solved, residual = self._solve(workers)
        if residual > MOST_RESIDUAL:
            raise self._too_few(present)
        return dict(zip(workers, solved.tolist(), strict=True))

    def _solve(self, workers: list[int]) -> tuple[Array, float]:
        rows = self.matrix[workers]
        solved = np.linalg.lstsq(rows.T, np.ones(self.n), rcond=None)[0]
        return solved, float(np.abs(solved @ rows - 1).max())

    def _draw(self, chance: np.random.Generator) -> None:
        """Rows of the null space of H, s x n with columns that add up to nothing: then ones are among their sums."""
        self.matrix[:] = 0
        if self.s == 0:
            np.fill_diagonal(self.matrix, 1)
            return
        h = chance.standard_normal((self.s, self.n))
        h[:, -1] = -h[:, :-1].sum(axis=1)
        for worker in range(self.n):
            others = [(worker + step) % self.n for step in range(1, self.s + 1)]
            self.matrix[worker, worker] = 1
            self.matrix[worker, others] = np.linalg.solve(h[:, others], -h[:, worker])

    def _sound(self, chance: np.random.Generator) -> bool:
        """Tried with all sets of late workers, or, where these are too many, with neighbours and some others."""
        n, late = self.n, self.s
        sets: list[set[int]] = [{(first + step) % n for step in range(late)} for first in range(n)]
        if math.comb(n, late) <= TRIED_SETS:
            sets = [set(some) for some in combinations(range(n), late)]
        else:
            sets += [set(chance.permutation(n)[:late].tolist()) for _ in range(2 * n)]
        return all(self._solve(sorted(set(range(n)) - some))[1] < MOST_RESIDUAL / MARGIN for some in sets)
