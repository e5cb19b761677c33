"""One shot through windows: everybody shows its whole input, and everybody reduces all of them. One round of signals, n times
the reading: for small data."""

from __future__ import annotations

from .schedule import Schedule, Step, cell, chunk, combine, copy, signal, wait


def all_reduce(n: int, rank: int, root: int = 0) -> Schedule:
    """All ranks add in the order of ranks. The own input is read from the own window: in place, the result overwrites it."""
    result = chunk("out", 0)
    steps: list[Step] = [copy(cell(rank, 0), chunk("in", 0)), signal()]
    steps += [wait((rank + shift) % n, 1) for shift in range(1, n)]
    left = cell(0, 0)
    for other in range(1, n):
        steps.append(combine(result, left, cell(other, 0)))
        left = result
    if n == 1:
        steps.append(copy(result, left))
    return Schedule("all_reduce", "oneshot", n, rank, {"in": 1, "out": 1, "win": 1}, tuple(steps), True, closing=True)
