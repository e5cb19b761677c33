"""Through windows, for ranks that share memory: each byte is written once by who has it and read by who needs it.

Two blocks take turns in two sets of cells, and no step waits only to find its cell free: who writes a cell again has, since
its readers were there, waited for a signal that they gave later. Where the flow goes one way (broadcast, gather, scatter)
that is a wait for the block before the last. The prover looks at every such pair.
"""

from __future__ import annotations

from collections.abc import Iterator

from .schedule import Schedule, Step, cell, chunk, combine, copy, signal, wait

FREE = 2  # blocks after which a cell is written again


def all_reduce(n: int, rank: int, root: int = 0) -> Schedule:
    """By slices: each rank reduces its slice of everybody's input, and all copy the results.

    Per rank and byte of input: (n-1)/n written for the others, 1 read and reduced, 1 copied.
    """
    steps = [*_reduced_slice(n, rank), *_wait_all(n, rank, 2)]
    steps += [copy(chunk("out", owner), cell(owner, owner)) for owner in _from(rank, n)]
    return Schedule("all_reduce", "windows", n, rank, {"in": n, "out": n, "win": n}, tuple(steps), True, closing=True)


def reduce_scatter(n: int, rank: int, root: int = 0) -> Schedule:
    steps = [*_for_the_others(n, rank), signal(), *_wait_all(n, rank, 1)]
    mine = chunk("in", rank)
    for other in _others(rank, n):
        steps.append(combine(chunk("out", 0), mine, cell(other, rank)))
        mine = chunk("out", 0)
    if n == 1:
        steps.append(copy(chunk("out", 0), mine))
    return Schedule("reduce_scatter", "windows", n, rank, {"in": n, "out": 1, "win": n}, tuple(steps), closing=True)


def all_gather(n: int, rank: int, root: int = 0) -> Schedule:
    steps = [copy(cell(rank, 0), chunk("in", 0)), signal(), copy(chunk("out", rank), chunk("in", 0))]
    for other in _others(rank, n):
        steps += [wait(other, 1), copy(chunk("out", other), cell(other, 0))]
    return Schedule("all_gather", "windows", n, rank, {"in": 1, "out": n, "win": 1}, tuple(steps), closing=True)


def all_to_all(n: int, rank: int, root: int = 0) -> Schedule:
    steps = [*_for_the_others(n, rank), signal(), copy(chunk("out", rank), chunk("in", rank))]
    for other in _others(rank, n):
        steps += [wait(other, 1), copy(chunk("out", other), cell(other, rank))]
    return Schedule("all_to_all", "windows", n, rank, {"in": n, "out": n, "win": n}, tuple(steps), closing=True)


def broadcast(n: int, rank: int, root: int = 0) -> Schedule:
    if rank == root:
        steps = [*_wait_all(n, rank, 1, FREE), copy(cell(rank, 0), chunk("out", 0)), signal()]
    else:
        steps = [wait(root, 1), copy(chunk("out", 0), cell(root, 0)), signal()]
    return Schedule("broadcast", "windows", n, rank, {"out": 1, "win": 1}, tuple(steps))


def reduce(n: int, rank: int, root: int = 0) -> Schedule:
    """By slices as `all_reduce`; the root alone copies the results."""
    steps = _reduced_slice(n, rank)
    chunks = {"in": n, "win": n}
    if rank == root:
        steps += _wait_all(n, rank, 2)
        steps += [copy(chunk("out", owner), cell(owner, owner)) for owner in _from(rank, n)]
        chunks["out"] = n
    return Schedule("reduce", "windows", n, rank, chunks, tuple(steps))


def gather(n: int, rank: int, root: int = 0) -> Schedule:
    """The root's signal says that it has taken a block."""
    if rank != root:
        steps = [wait(root, 1, FREE), copy(cell(rank, 0), chunk("in", 0)), signal()]
        return Schedule("gather", "windows", n, rank, {"in": 1, "win": 1}, tuple(steps))
    steps = [copy(chunk("out", rank), chunk("in", 0))]
    for other in _others(rank, n):
        steps += [wait(other, 1), copy(chunk("out", other), cell(other, 0))]
    return Schedule("gather", "windows", n, rank, {"in": 1, "out": n, "win": 1}, (*steps, signal()))


def scatter(n: int, rank: int, root: int = 0) -> Schedule:
    if rank != root:
        steps = [wait(root, 1), copy(chunk("out", 0), cell(root, rank)), signal()]
        return Schedule("scatter", "windows", n, rank, {"out": 1, "win": n}, tuple(steps))
    steps = [*_wait_all(n, rank, 1, FREE), *_for_the_others(n, rank), signal()]
    steps.append(copy(chunk("out", 0), chunk("in", rank)))
    return Schedule("scatter", "windows", n, rank, {"in": n, "out": 1, "win": n}, tuple(steps))


def _reduced_slice(n: int, rank: int) -> list[Step]:
    """This rank's slice of the sum, in its own window, made known with the second signal."""
    steps = [*_for_the_others(n, rank), signal(), *_wait_all(n, rank, 1)]
    mine, result = chunk("in", rank), cell(rank, rank)
    for other in _others(rank, n):
        steps.append(combine(result, mine, cell(other, rank)))
        mine = result
    if n == 1:
        steps.append(copy(result, mine))
    return [*steps, signal()]


def _for_the_others(n: int, rank: int) -> list[Step]:
    return [copy(cell(rank, other), chunk("in", other)) for other in _others(rank, n)]


def _wait_all(n: int, rank: int, count: int, lag: int = 0) -> list[Step]:
    return [wait(other, count, lag) for other in _others(rank, n)]


def _others(rank: int, n: int) -> Iterator[int]:
    """Round the group, so that not all read one window at once."""
    return ((rank + shift) % n for shift in range(1, n))


def _from(rank: int, n: int) -> Iterator[int]:
    return ((rank + shift) % n for shift in range(n))
