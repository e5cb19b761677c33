"""A directed cycle from the cheapest cycle cover: where links differ without a pattern, the best cheap start for local search.

The cover (each rank one link out and one in, least sum) is an assignment problem, solved by shortest augmenting paths (Kuhn 1955,
Jonker and Volgenant 1987); Karp and Steele (1985) then join its two largest cycles at the cheapest pair of links, until one is
left. Arrays are only added and compared element by element, so that every machine finds the same.
"""

from __future__ import annotations

import numpy as np

from .localsearch import Matrix


def patched_cover(weights: Matrix) -> list[int]:
    """A cycle through all ranks of the n x n ``weights``, n >= 2, in O(n^3)."""
    following = cheapest_cover(weights)
    cycles = sorted(_cycles(following), key=lambda cycle: (-len(cycle), cycle[0]))
    while len(cycles) > 1:
        one, other = np.array(cycles[0]), np.array(cycles[1])
        after_one, after_other = np.roll(one, -1), np.roll(other, -1)
        change = weights[one[:, None], after_other] + weights[other[:, None], after_one].T
        change = change - weights[one, after_one][:, None] - weights[other, after_other]
        i, j = divmod(int(change.argmin()), len(other))
        joined = cycles[0][: i + 1] + cycles[1][j + 1 :] + cycles[1][: j + 1] + cycles[0][i + 1 :]
        cycles[:2] = [joined]
    return cycles[0]


def cheapest_cover(weights: Matrix) -> list[int]:
    """For each rank the one that its link goes to: a permutation without fixed points of least sum."""
    n = len(weights)
    apart = np.array(weights)
    np.fill_diagonal(apart, (float(weights.max()) + 1.0) * 2 * n)
    rows, columns = np.zeros(n), np.zeros(n + 1)  # dual prices; column n stands for the row to be placed
    owner = np.full(n + 1, -1, np.int64)  # of each column: its row
    for row in range(n):
        owner[n] = row
        column = n
        nearest, before = np.full(n, np.inf), np.full(n, n, np.int64)
        reached = np.zeros(n, bool)
        while owner[column] >= 0:
            if column < n:
                reached[column] = True
            own = int(owner[column])
            slack = apart[own] - rows[own] - columns[:n]
            closer = ~reached & (slack < nearest)
            nearest[closer] = slack[closer]
            before[closer] = column
            following = int(np.where(reached, np.inf, nearest).argmin())
            step = float(nearest[following])
            passed = np.flatnonzero(reached)
            rows[owner[passed]] += step
            rows[row] += step
            columns[passed] -= step
            nearest[~reached] -= step
            column = following
        while column < n:
            earlier = int(before[column])
            owner[column] = owner[earlier]
            column = earlier
        owner[n] = -1
    target = [0] * n
    for column in range(n):
        target[int(owner[column])] = column
    return target


def _cycles(following: list[int]) -> list[list[int]]:
    left = set(range(len(following)))
    cycles = []
    for first in range(len(following)):
        if first in left:
            cycle = [first]
            while (rank := following[cycle[-1]]) != first:
                cycle.append(rank)
            left.difference_update(cycle)
            cycles.append(cycle)
    return cycles
