"""Direct exchange: every pair of ranks talks once in each phase. All sends come before the receipts, so that small ones cost one
latency together; rank by rank they go round the group, so that no rank is called by all others at once."""

from __future__ import annotations

from .schedule import Schedule, chunk, copy, recv, recv_reduce, send


def all_reduce(n: int, rank: int, root: int = 0) -> Schedule:
    """n pieces, each summed by its owner and sent to all: two latencies, and as few bytes as round a ring."""
    mine, result = chunk("in", rank), chunk("out", rank)
    steps = [send((rank + shift) % n, chunk("in", (rank + shift) % n)) for shift in range(1, n)]
    for shift in range(1, n):
        steps.append(recv_reduce((rank - shift) % n, result, mine))
        mine = result
    steps += [send((rank + shift) % n, result) for shift in range(1, n)]
    steps += [recv((rank - shift) % n, chunk("out", (rank - shift) % n)) for shift in range(1, n)]
    if n == 1:
        steps.append(copy(result, mine))
    return Schedule("all_reduce", "direct", n, rank, {"in": n, "out": n}, tuple(steps), in_place=True)


def all_to_all(n: int, rank: int, root: int = 0) -> Schedule:
    steps = [copy(chunk("out", rank), chunk("in", rank))]
    steps += [send((rank + shift) % n, chunk("in", (rank + shift) % n)) for shift in range(1, n)]
    steps += [recv((rank - shift) % n, chunk("out", (rank - shift) % n)) for shift in range(1, n)]
    return Schedule("all_to_all", "direct", n, rank, {"in": n, "out": n}, tuple(steps))


def all_gather(n: int, rank: int, root: int = 0) -> Schedule:
    steps = [copy(chunk("out", rank), chunk("in", 0))]
    steps += [send((rank + shift) % n, chunk("in", 0)) for shift in range(1, n)]
    steps += [recv((rank - shift) % n, chunk("out", (rank - shift) % n)) for shift in range(1, n)]
    return Schedule("all_gather", "direct", n, rank, {"in": 1, "out": n}, tuple(steps))


def reduce_scatter(n: int, rank: int, root: int = 0) -> Schedule:
    """Each piece is summed by its owner, in the order in which the rounds bring it."""
    steps = [send((rank + shift) % n, chunk("in", (rank + shift) % n)) for shift in range(1, n)]
    mine = chunk("in", rank)
    for shift in range(1, n):
        steps.append(recv_reduce((rank - shift) % n, chunk("out", 0), mine))
        mine = chunk("out", 0)
    if n == 1:
        steps.append(copy(chunk("out", 0), mine))
    return Schedule("reduce_scatter", "direct", n, rank, {"in": n, "out": 1}, tuple(steps))
