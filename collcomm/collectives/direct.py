"""Direct exchange: every pair of ranks talks once, in n - 1 rounds in which no rank is called by two others."""

from __future__ import annotations

from .schedule import Schedule, Step, chunk, copy, recv, recv_reduce, send


def all_to_all(n: int, rank: int, root: int = 0) -> Schedule:
    steps: list[Step] = [copy(chunk("out", rank), chunk("in", rank))]
    for shift in range(1, n):
        steps.append(send((rank + shift) % n, chunk("in", (rank + shift) % n)))
        steps.append(recv((rank - shift) % n, chunk("out", (rank - shift) % n)))
    return Schedule("all_to_all", "direct", n, rank, {"in": n, "out": n}, tuple(steps))


def all_gather(n: int, rank: int, root: int = 0) -> Schedule:
    steps: list[Step] = [copy(chunk("out", rank), chunk("in", 0))]
    for shift in range(1, n):
        steps.append(send((rank + shift) % n, chunk("in", 0)))
        steps.append(recv((rank - shift) % n, chunk("out", (rank - shift) % n)))
    return Schedule("all_gather", "direct", n, rank, {"in": 1, "out": n}, tuple(steps))


def reduce_scatter(n: int, rank: int, root: int = 0) -> Schedule:
    """Each piece is summed by its owner, in the order in which the rounds bring it."""
    steps: list[Step] = []
    mine = chunk("in", rank)
    for shift in range(1, n):
        steps.append(send((rank + shift) % n, chunk("in", (rank + shift) % n)))
        steps.append(recv_reduce((rank - shift) % n, chunk("out", 0), mine))
        mine = chunk("out", 0)
    if n == 1:
        steps.append(copy(chunk("out", 0), mine))
    return Schedule("reduce_scatter", "direct", n, rank, {"in": n, "out": 1}, tuple(steps))
