"""Ring algorithms: each rank talks to its two neighbours only, and every link carries the same load.

Reduce-scatter then all-gather moves 2 (n-1)/n of the data over each link, which is the least possible
(Patarasuk and Yuan 2009). The vector is cut into ``segments`` that go round one behind the other, as a wave front: what a rank
has received and reduced it sends on next, while it is still in its cache. On long links ``lag`` segments go before.
"""

from __future__ import annotations

from collections.abc import Iterator

from .schedule import Schedule, Span, Step, chunk, copy, recv, recv_reduce, send


def wave(steps: int, segments: int, lag: int = 1) -> Iterator[tuple[int, int]]:
    """(step, segment) in the order in which a front of ``steps`` stages moves over ``segments``. A segment's next step comes
    ``lag`` segments later: what has to come back over a long link first does not hold up what could go meanwhile."""
    for time in range((steps - 1) * lag + segments):
        for step in range(min(time // lag, steps - 1), -1, -1):
            segment = time - step * lag
            if segment >= segments:
                break
            yield step, segment


def exchange(n: int, rank: int, step: int, base: int, way: int = 1) -> tuple[Step, Step]:
    """What a rank sends on and what it receives in ``step`` of an all_reduce of the n chunks from ``base`` on, which go to the
    right (``way`` 1) or to the left (-1): n - 1 steps of reducing, n - 1 of gathering."""
    ahead, behind = (rank + way) % n, (rank - way) % n
    place = way * rank
    if step < n - 1:
        outgoing, incoming = base + (place - step) % n, base + (place - step - 1) % n
        going = send(ahead, chunk("out" if step else "in", outgoing))
        return going, recv_reduce(behind, chunk("out", incoming), chunk("in", incoming))
    step -= n - 1
    outgoing, incoming = base + (place + 1 - step) % n, base + (place - step) % n
    return send(ahead, chunk("out", outgoing)), recv(behind, chunk("out", incoming))


def all_reduce(n: int, rank: int, root: int = 0, segments: int = 1, lag: int = 1) -> Schedule:
    """``lag``: of the `wave`. ``segments * n`` chunks; chunk ``segment * n + c`` is owned, when reduced, by rank c - 1."""
    steps: list[Step] = []
    if n == 1:
        steps = [copy(chunk("out", s), chunk("in", s)) for s in range(segments)]
    for step, segment in wave(2 * (n - 1), segments, lag) if n > 1 else ():
        steps += exchange(n, rank, step, segment * n)
    pieces = segments * n
    return Schedule("all_reduce", "ring", n, rank, {"in": pieces, "out": pieces}, tuple(steps), in_place=True)


def reduce_scatter(n: int, rank: int, root: int = 0) -> Schedule:
    """Partial sums travel in "tmp"; the last step lands in "out"."""
    right, left = (rank + 1) % n, (rank - 1) % n
    if n == 1:
        return Schedule(
            "reduce_scatter", "ring", 1, 0, {"in": 1, "out": 1}, (copy(chunk("out", 0), chunk("in", 0)),), True
        )
    steps: list[Step] = []
    for step in range(n - 1):
        outgoing, incoming = (rank - step - 1) % n, (rank - step - 2) % n
        steps.append(send(right, chunk("tmp" if step else "in", outgoing)))
        target = chunk("out", 0) if step == n - 2 else chunk("tmp", incoming)
        steps.append(recv_reduce(left, target, chunk("in", incoming)))
    return Schedule("reduce_scatter", "ring", n, rank, {"in": n, "out": 1, "tmp": n}, tuple(steps))


def all_gather(n: int, rank: int, root: int = 0) -> Schedule:
    right, left = (rank + 1) % n, (rank - 1) % n
    steps: list[Step] = []
    for step in range(n - 1):
        outgoing, incoming = (rank - step) % n, (rank - step - 1) % n
        steps.append(send(right, chunk("out", outgoing) if step else chunk("in", 0)))
        steps.append(recv(left, chunk("out", incoming)))
    steps.append(copy(chunk("out", rank), chunk("in", 0)))
    return Schedule("all_gather", "ring", n, rank, {"in": 1, "out": n}, tuple(steps))


def broadcast(n: int, rank: int, root: int = 0, segments: int = 1) -> Schedule:
    """A chain from the root along the ring; ``segments`` chunks follow each other."""
    place = (rank - root) % n
    steps: list[Step] = []
    for segment in range(segments):
        piece = Span("out", segment, segment + 1)
        if place > 0:
            steps.append(recv((rank - 1) % n, piece))
        if place < n - 1:
            steps.append(send((rank + 1) % n, piece))
    return Schedule("broadcast", "ring", n, rank, {"out": segments}, tuple(steps))
