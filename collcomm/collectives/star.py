"""Stars: everybody talks to the root and to nobody else. Fewest hops, for high latency and little data."""

from __future__ import annotations

from .schedule import Schedule, Step, chunk, copy, recv, recv_reduce, send


def all_reduce(n: int, rank: int, root: int = 0) -> Schedule:
    """The root adds in the order of ranks after it and sends the result out."""
    given, result = chunk("in", 0), chunk("out", 0)
    if rank != root:
        steps: list[Step] = [send(root, given), recv(root, result)]
    else:
        others = [(root + shift) % n for shift in range(1, n)]
        steps = _collect(root, others, n)
        steps += [send(peer, result) for peer in others]
    return Schedule("all_reduce", "star", n, rank, {"in": 1, "out": 1}, tuple(steps), in_place=True)


def _collect(root: int, others: list[int], n: int) -> list[Step]:
    given, result = chunk("in", 0), chunk("out", 0)
    if n == 1:
        return [copy(result, given)]
    return [recv_reduce(peer, result, result if number else given) for number, peer in enumerate(others)]


def reduce(n: int, rank: int, root: int = 0) -> Schedule:
    if rank != root:
        return Schedule("reduce", "star", n, rank, {"in": 1}, (send(root, chunk("in", 0)),))
    others = [(root + shift) % n for shift in range(1, n)]
    return Schedule("reduce", "star", n, rank, {"in": 1, "out": 1}, tuple(_collect(root, others, n)))


def broadcast(n: int, rank: int, root: int = 0) -> Schedule:
    piece = chunk("out", 0)
    steps = [recv(root, piece)] if rank != root else [send((root + shift) % n, piece) for shift in range(1, n)]
    return Schedule("broadcast", "star", n, rank, {"out": 1}, tuple(steps))


def gather(n: int, rank: int, root: int = 0) -> Schedule:
    if rank != root:
        return Schedule("gather", "star", n, rank, {"in": 1}, (send(root, chunk("in", 0)),))
    steps = [recv((root + shift) % n, chunk("out", (root + shift) % n)) for shift in range(1, n)]
    steps.append(copy(chunk("out", root), chunk("in", 0)))
    return Schedule("gather", "star", n, rank, {"in": 1, "out": n}, tuple(steps))


def scatter(n: int, rank: int, root: int = 0) -> Schedule:
    if rank != root:
        return Schedule("scatter", "star", n, rank, {"out": 1}, (recv(root, chunk("out", 0)),))
    steps = [send((root + shift) % n, chunk("in", (root + shift) % n)) for shift in range(1, n)]
    steps.append(copy(chunk("out", 0), chunk("in", root)))
    return Schedule("scatter", "star", n, rank, {"in": n, "out": 1}, tuple(steps))
