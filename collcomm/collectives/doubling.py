"""Recursive doubling: log2(n) exchanges of everything one has, the fewest rounds there are; for small data.

Any n: with p the largest power of two in n, the first n - p odd ranks give their part to the even rank before them and get the
result back at the end (Thakur, Rabenseifner and Gropp 2005).
"""

from __future__ import annotations

from .schedule import Schedule, Span, Step, chunk, copy, recv, recv_reduce, send


def all_reduce(n: int, rank: int, root: int = 0) -> Schedule:
    """One chunk. Every rank evaluates the same expression: the block of lower ranks is always the left operand."""
    given, result = chunk("in", 0), chunk("out", 0)
    power = 1 << (n.bit_length() - 1)
    extra = n - power
    steps: list[Step] = []
    if rank < 2 * extra and rank % 2:
        steps = [send(rank - 1, given), recv(rank - 1, result)]
        return Schedule("all_reduce", "doubling", n, rank, {"in": 1, "out": 1}, tuple(steps), in_place=True)
    mine = given
    if rank < 2 * extra:
        steps.append(recv_reduce(rank + 1, result, mine))
        mine = result
    place = rank // 2 if rank < 2 * extra else rank - extra
    distance = 1
    while distance < power:
        other = place ^ distance
        peer = 2 * other if other < extra else other + extra
        steps.append(send(peer, mine))
        steps.append(recv_reduce(peer, result, mine, received_first=peer < rank))
        mine = result
        distance *= 2
    if rank < 2 * extra:
        steps.append(send(rank + 1, result))
    if n == 1:
        steps.append(copy(result, given))
    return Schedule("all_reduce", "doubling", n, rank, {"in": 1, "out": 1}, tuple(steps), in_place=True)


def all_gather(n: int, rank: int, root: int = 0) -> Schedule:
    """Dissemination (Bruck and others 1997): in round k the blocks of 2^k ranks go 2^k ranks back; any n."""
    steps: list[Step] = [copy(chunk("out", rank), chunk("in", 0))]
    have = 1
    while have < n:
        count = min(have, n - have)
        steps += [send((rank - have) % n, span) for span in _circular(rank, count, n)]
        steps += [recv((rank + have) % n, span) for span in _circular(rank + have, count, n)]
        have += count
    return Schedule("all_gather", "doubling", n, rank, {"in": 1, "out": n}, tuple(steps))


def _circular(first: int, count: int, n: int) -> list[Span]:
    """``count`` blocks from ``first`` on, round the end: one or two spans, always cut at the end of the buffer."""
    first %= n
    if first + count <= n:
        return [Span("out", first, first + count)]
    return [Span("out", first, n), Span("out", 0, first + count - n)]
