"""The exact cheapest directed cycle by dynamic programming: the best path to each rank through each set (Held and Karp 1962)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .localsearch import Matrix


def held_karp(cost: Matrix, combine: Callable[..., Any]) -> list[int]:
    """The cycle from rank 0 whose links' costs, combined, are least; n >= 3. ``combine``: np.add, or np.maximum for the largest.

    Sets are bit masks over the ranks from 1; those of one size are treated together. O(n^2 2^n) time, O(n 2^n) memory.
    """
    m = len(cost) - 1
    inner = cost[1:, 1:]
    sets = np.arange(1 << m, dtype=np.int64)
    sizes = sum((sets >> bit) & 1 for bit in range(m))
    best = np.full((1 << m, m), np.inf)
    for rank in range(m):
        best[1 << rank, rank] = cost[0, rank + 1]
    for size in range(2, m + 1):
        layer = sets[sizes == size]
        for rank in range(m):
            having = layer[(layer >> rank) & 1 == 1]
            best[having, rank] = combine(best[having ^ (1 << rank)], inner[:, rank]).min(axis=1)
    chosen = (1 << m) - 1
    rank = int(combine(best[chosen], cost[1:, 0]).argmin())
    backwards = [rank]
    while len(backwards) < m:
        chosen ^= 1 << rank
        rank = int(combine(best[chosen], inner[:, rank]).argmin())
        backwards.append(rank)
    return [0, *(rank + 1 for rank in reversed(backwards))]
