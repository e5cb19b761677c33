"""Recursive halving: log2(n) exchanges, of half of the vector, a quarter, an eighth, and back (Rabenseifner 2004; Thakur,
Rabenseifner and Gropp 2005). As few bytes as round a ring, in as many rounds as doubling twice over.

Any n: with p the largest power of two in n, the first n - p odd ranks give their part to the even rank before them, as in
`doubling`, and the p that are left go on by themselves.
"""

from __future__ import annotations

from .schedule import Schedule, Span, Step, copy, recv, recv_reduce, send


def all_reduce(n: int, rank: int, root: int = 0) -> Schedule:
    """p chunks. Neighbours exchange the large halves and ranks far away the small ones, so that little leaves a site whose
    ranks stand in a row. Lower ranks are always the left operand: the bits are those of `doubling`.
    """
    power = 1 << (n.bit_length() - 1)
    extra = n - power
    paired = rank < 2 * extra
    given, result = Span("in", 0, power), Span("out", 0, power)
    chunks = {"in": power, "out": power}
    if paired and rank % 2:
        steps: list[Step] = [send(rank - 1, given), recv(rank - 1, result)]
        return Schedule("all_reduce", "halving", n, rank, chunks, tuple(steps), in_place=True)
    steps = [recv_reduce(rank + 1, result, given)] if paired else []
    source = "out" if paired else "in"
    place = rank // 2 if paired else rank - extra
    back: list[Step] = []
    first, last, distance = 0, power, 1
    while distance < power:
        other = place ^ distance
        peer = 2 * other if other < extra else other + extra
        middle = (first + last) // 2
        low, high = (first, middle), (middle, last)
        kept, given_away = (high, low) if place & distance else (low, high)
        steps.append(send(peer, Span(source, *given_away)))
        steps.append(recv_reduce(peer, Span("out", *kept), Span(source, *kept), received_first=peer < rank))
        back = [send(peer, Span("out", *kept)), recv(peer, Span("out", *given_away)), *back]
        first, last = kept
        source = "out"
        distance *= 2
    steps += back
    if paired:
        steps.append(send(rank + 1, result))
    if n == 1:
        steps.append(copy(result, given))
    return Schedule("all_reduce", "halving", n, rank, chunks, tuple(steps), in_place=True)


def reduce_scatter(n: int, rank: int, root: int = 0) -> Schedule:
    """Blocks stay in the order of ranks, so here it is the far ranks that exchange the large halves.

    An odd rank that gave its input away gets its block from the even one before it at the end.
    """
    power = 1 << (n.bit_length() - 1)
    extra = n - power
    paired = rank < 2 * extra
    chunks = {"in": n, "out": 1, "tmp": n}
    result = Span("out", 0, 1)
    if paired and rank % 2:
        steps: list[Step] = [send(rank - 1, Span("in", 0, n)), recv(rank - 1, result)]
        return Schedule("reduce_scatter", "halving", n, rank, chunks, tuple(steps))
    steps = [recv_reduce(rank + 1, Span("tmp", 0, n), Span("in", 0, n))] if paired else []
    source = "tmp" if paired else "in"
    place = rank // 2 if paired else rank - extra
    first, last, distance = 0, power, power // 2
    while distance:
        other = place ^ distance
        peer = 2 * other if other < extra else other + extra
        middle = (first + last) // 2
        low, high = (first, middle), (middle, last)
        kept, given_away = (high, low) if place & distance else (low, high)
        steps.append(send(peer, _blocks(source, *given_away, extra)))
        target = result if distance == 1 and not paired else _blocks("tmp", *kept, extra)
        steps.append(recv_reduce(peer, target, _blocks(source, *kept, extra), received_first=peer < rank))
        first, last = kept
        source = "tmp"
        distance //= 2
    if paired:
        steps += [send(rank + 1, Span("tmp", rank + 1, rank + 2)), copy(result, Span("tmp", rank, rank + 1))]
    elif n == 1:
        steps.append(copy(result, Span("in", 0, 1)))
    return Schedule("reduce_scatter", "halving", n, rank, chunks, tuple(steps))


def _blocks(buffer: str, first: int, last: int, extra: int) -> Span:
    """The blocks of places ``first`` to ``last``: the first ``extra`` places stand for two ranks each."""
    return Span(buffer, first + min(first, extra), last + min(last, extra))
