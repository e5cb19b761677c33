"""Two rings at once, one each way round: both directions of every link between neighbours are used at the same time.

An all_reduce gives each way half of the vector. Where the blocks are whole, each goes the shorter way, so that they are all
there after n // 2 steps instead of n - 1 (several links at once: Chan, van de Geijn, Gropp and Thakur 2006).
"""

from __future__ import annotations

from .ring import exchange, wave
from .schedule import Schedule, Span, Step, chunk, copy, recv, recv_reduce, send


def all_reduce(n: int, rank: int, root: int = 0, segments: int = 1, lag: int = 1) -> Schedule:
    """``2 * segments * n`` chunks: of each segment n that go to the right, then n that go to the left."""
    pieces = 2 * segments * n
    steps: list[Step] = []
    if n == 1:
        steps = [copy(Span("out", 0, pieces), Span("in", 0, pieces))]
    for step, segment in wave(2 * (n - 1), segments, lag) if n > 1 else ():
        to_the_right = exchange(n, rank, step, 2 * segment * n, 1)
        to_the_left = exchange(n, rank, step, (2 * segment + 1) * n, -1)
        for outgoing_or_incoming in zip(to_the_right, to_the_left, strict=True):
            steps += outgoing_or_incoming
    chunks = {"in": pieces, "out": pieces}
    return Schedule("all_reduce", "bidirectional", n, rank, chunks, tuple(steps), in_place=True)


def reduce_scatter(n: int, rank: int, root: int = 0) -> Schedule:
    """The sum for a rank comes to it from both sides, each adding up what half of the ranks have; the rank adds the two."""
    steps: list[Step] = []
    result, mine = chunk("out", 0), chunk("in", rank)
    for step in range(n // 2):
        arriving = []
        for way, reach in ((1, n // 2), (-1, (n - 1) // 2)):  # ranks on the one side of a destination, and on the other
            far = reach - step  # from here to the rank whose sum is sent on
            if far < 1:
                continue
            outgoing, incoming = (rank + way * far) % n, (rank + way * (far - 1)) % n
            steps.append(send((rank + way) % n, chunk("tmp" if step else "in", outgoing)))
            arriving.append(((rank - way) % n, incoming))
        for peer, incoming in arriving:
            if incoming == rank:
                steps.append(recv_reduce(peer, result, mine))
                mine = result
            else:
                steps.append(recv_reduce(peer, chunk("tmp", incoming), chunk("in", incoming)))
    if n == 1:
        steps.append(copy(result, mine))
    return Schedule("reduce_scatter", "bidirectional", n, rank, {"in": n, "out": 1, "tmp": n}, tuple(steps))


def all_gather(n: int, rank: int, root: int = 0) -> Schedule:
    """Each block goes to n // 2 ranks on the right of its owner and to the others on the left."""
    steps: list[Step] = [copy(chunk("out", rank), chunk("in", 0))]
    for step in range(n // 2):
        arriving = []
        for way, reach in ((1, n // 2), (-1, (n - 1) // 2)):
            if step < reach:
                outgoing = chunk("out", (rank - way * step) % n) if step else chunk("in", 0)
                steps.append(send((rank + way) % n, outgoing))
                arriving.append(recv((rank - way) % n, chunk("out", (rank - way * (step + 1)) % n)))
        steps += arriving
    return Schedule("all_gather", "bidirectional", n, rank, {"in": 1, "out": n}, tuple(steps))
