"""Binomial trees: log2(n) rounds from or to a root, each rank passing on what it has to twice as many."""

from __future__ import annotations

from .schedule import Schedule, Span, Step, chunk, copy, recv, recv_reduce, send


def _rounds(n: int) -> list[int]:
    """1, 2, 4, ... below n."""
    return [1 << k for k in range((n - 1).bit_length())]


def broadcast(n: int, rank: int, root: int = 0) -> Schedule:
    place = (rank - root) % n
    steps: list[Step] = []
    for distance in _rounds(n):
        if place < distance and place + distance < n:
            steps.append(send((rank + distance) % n, chunk("out", 0)))
        elif distance <= place < 2 * distance:
            steps.append(recv((rank - distance) % n, chunk("out", 0)))
    return Schedule("broadcast", "tree", n, rank, {"out": 1}, tuple(steps))


def reduce(n: int, rank: int, root: int = 0) -> Schedule:
    place = (rank - root) % n
    result = chunk("out" if place == 0 else "tmp", 0)
    mine = chunk("in", 0)
    steps: list[Step] = []
    for distance in _rounds(n):
        if place % (2 * distance) == 0:
            if place + distance < n:
                steps.append(recv_reduce((rank + distance) % n, result, mine))
                mine = result
        else:
            steps.append(send((rank - distance) % n, mine))
            break
    if n == 1:
        steps.append(copy(result, mine))
    chunks = {"in": 1, "out": 1} if place == 0 else {"in": 1, "tmp": 1}
    return Schedule("reduce", "tree", n, rank, chunks, tuple(steps))


def _blocks(buffer: str, root: int, first: int, last: int, n: int) -> list[Span]:
    """The blocks of places ``first`` to ``last`` (counted from the root) by rank: cut where the ranks wrap round."""
    low, high = (root + first) % n, (root + last - 1) % n + 1
    return [Span(buffer, low, high)] if low < high else [Span(buffer, low, n), Span(buffer, 0, high)]


def gather(n: int, rank: int, root: int = 0) -> Schedule:
    place = (rank - root) % n
    buffer = "out" if place == 0 else "tmp"
    steps: list[Step] = [copy(chunk(buffer, rank), chunk("in", 0))]
    for distance in _rounds(n):
        if place % (2 * distance):
            last = min(place + distance, n)
            steps += [send((rank - distance) % n, span) for span in _blocks(buffer, root, place, last, n)]
            break
        if place + distance < n:
            last = min(place + 2 * distance, n)
            spans = _blocks(buffer, root, place + distance, last, n)
            steps += [recv((rank + distance) % n, span) for span in spans]
    return Schedule("gather", "tree", n, rank, {"in": 1, buffer: n}, tuple(steps))


def scatter(n: int, rank: int, root: int = 0) -> Schedule:
    place = (rank - root) % n
    buffer = "in" if place == 0 else "tmp"
    steps: list[Step] = []
    for distance in reversed(_rounds(n)):
        if place % (2 * distance) == 0 and place + distance < n:
            spans = _blocks(buffer, root, place + distance, min(place + 2 * distance, n), n)
            steps += [send((rank + distance) % n, span) for span in spans]
        elif place % (2 * distance) == distance:
            spans = _blocks(buffer, root, place, min(place + distance, n), n)
            steps += [recv((rank - distance) % n, span) for span in spans]
    steps.append(copy(chunk("out", 0), chunk(buffer, rank)))
    return Schedule("scatter", "tree", n, rank, {buffer: n, "out": 1}, tuple(steps))
