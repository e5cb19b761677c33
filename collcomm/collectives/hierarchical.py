"""Two levels: what can be done within a host is done there, and the network carries each byte once per host.

Every piece has a *carrier* on each host; the carriers of a piece form a ring of their own across the hosts, so that all ranks
of a host share the work, also where hosts have unequal numbers of ranks. ``hosts``: the host of each rank.

The bytes of an all_to_all cross the network once in any case; what its carriers save is messages (see `handover`).
"""

from __future__ import annotations

from collections.abc import Callable

from .handover import all_to_all
from .hosts import Hosts
from .ring import wave
from .schedule import Schedule, Span, Step, chunk, copy, recv, recv_reduce, send

__all__ = ["all_gather", "all_reduce", "all_to_all", "broadcast", "reduce_scatter"]


def all_reduce(
    n: int, rank: int, root: int = 0, hosts: tuple[int, ...] = (), segments: int = 1, lag: int = 1
) -> Schedule:
    """Reduce-scatter within the host, a ring per piece across h hosts, all-gather within the host.

    Each host sends and receives 2 (h-1)/h of the data over the network. Chunks are numbered (segment, piece, part): a ring of
    h hosts goes round with h parts, as a `wave` with that ``lag``.
    """
    layout = Hosts.of(n, hosts)
    host, _ = layout.place[rank]
    h, shares = layout.count, layout.shares
    chunks = segments * shares * h

    def at(segment: int, piece: int, part: int) -> int:
        return (segment * shares + piece) * h + part % h

    mine = [piece for piece in range(shares) if layout.carrier(host, piece) == rank]
    steps = _to_the_carriers(layout, rank, chunks, lambda c: c // h % shares)
    reduced = bool(layout.neighbours(rank))
    for step, segment in wave(2 * (h - 1), segments, lag):
        for piece in mine:
            right, left = layout.carrier(host + 1, piece), layout.carrier(host - 1, piece)
            if step < h - 1:
                outgoing, incoming = at(segment, piece, host - step), at(segment, piece, host - step - 1)
                ours = chunk("out" if reduced else "in", incoming)
                steps.append(send(right, chunk("out" if reduced or step else "in", outgoing)))
                steps.append(recv_reduce(left, chunk("out", incoming), ours))
            else:
                late = step - (h - 1)
                outgoing, incoming = at(segment, piece, host + 1 - late), at(segment, piece, host - late)
                steps.append(send(right, chunk("out", outgoing)))
                steps.append(recv(left, chunk("out", incoming)))
    steps += _to_the_neighbours(layout, rank, chunks, lambda c: c // h % shares)
    if n == 1:
        steps += [copy(chunk("out", c), chunk("in", c)) for c in range(chunks)]
    return Schedule("all_reduce", "hierarchical", n, rank, {"in": chunks, "out": chunks}, tuple(steps), in_place=True)


def reduce_scatter(n: int, rank: int, root: int = 0, hosts: tuple[int, ...] = ()) -> Schedule:
    """The sum for a rank goes from host to host, and ends at its own: each host sends (h-1)/h of the data."""
    layout = Hosts.of(n, hosts)
    host, _ = layout.place[rank]
    h = layout.count
    alone = not layout.neighbours(rank)

    def carrier(number: int, destination: int) -> int:
        """On its own host, a rank carries what is for itself."""
        home, at = layout.place[destination]
        return destination if number % h == home else layout.carrier(number, at)

    mine = [d for d in range(n) if carrier(host, d) == rank]
    steps = []
    for other in layout.neighbours(rank):
        steps += [send(other, chunk("in", d)) for d in range(n) if carrier(host, d) == other]
    held = dict.fromkeys(mine, "in")
    for other in reversed(layout.neighbours(rank)):
        for d in mine:
            target = chunk("out", 0) if d == rank and h == 1 else chunk("tmp", d)
            source = target if held[d] == "tmp" else chunk("in", d)
            steps.append(recv_reduce(other, target, source))
            held[d] = "tmp"
    for step in range(h - 1):
        for d in range(n):
            home = layout.place[d][0]
            if home == (host - step - 1) % h and carrier(host, d) == rank:
                steps.append(send(carrier(host + 1, d), chunk("in" if alone and not step else "tmp", d)))
        for d in mine:
            if layout.place[d][0] == (host - step - 2) % h:
                target = chunk("out", 0) if d == rank and step == h - 2 else chunk("tmp", d)
                steps.append(recv_reduce(carrier(host - 1, d), target, chunk("in" if alone else "tmp", d)))
    if n == 1:
        steps.append(copy(chunk("out", 0), chunk("in", 0)))
    chunks = {"in": n, "out": 1, "tmp": n}
    return Schedule("reduce_scatter", "hierarchical", n, rank, chunks, tuple(steps))


def all_gather(n: int, rank: int, root: int = 0, hosts: tuple[int, ...] = ()) -> Schedule:
    """Blocks go from host to host, each along its carriers, and are spread there: each host receives once what it has not."""
    layout = Hosts.of(n, hosts)
    host, _ = layout.place[rank]
    h = layout.count

    def carrier(number: int, origin: int) -> int:
        home, at = layout.place[origin]
        return origin if number % h == home else layout.carrier(number, at)

    def block(origin: int) -> Span:
        return chunk("in", 0) if origin == rank else chunk("out", origin)

    steps = [copy(chunk("out", rank), chunk("in", 0))]
    neighbours = layout.neighbours(rank)
    for step in range(h):
        ours = [o for o in range(n) if layout.place[o][0] == (host - step) % h]
        for origin in ours:
            if carrier(host, origin) == rank and step < h - 1:
                steps.append(send(carrier(host + 1, origin), block(origin)))
            if carrier(host, origin) == rank:
                steps += [send(other, block(origin)) for other in neighbours]
        for origin in ours:
            if carrier(host, origin) != rank:
                steps.append(recv(carrier(host, origin), chunk("out", origin)))
        if step < h - 1:
            coming = [o for o in range(n) if layout.place[o][0] == (host - step - 1) % h]
            steps += [recv(carrier(host - 1, o), chunk("out", o)) for o in coming if carrier(host, o) == rank]
    return Schedule("all_gather", "hierarchical", n, rank, {"in": 1, "out": n}, tuple(steps))


def broadcast(n: int, rank: int, root: int = 0, hosts: tuple[int, ...] = (), segments: int = 1) -> Schedule:
    """From the root's host to the next one and so on, each piece along its carriers, who spread it on their host."""
    layout = Hosts.of(n, hosts)
    shares, home = layout.shares, layout.place[root][0]
    distance = (layout.place[rank][0] - home) % layout.count
    chunks = segments * shares

    def carrier(hops: int, piece: int) -> int:
        return root if not hops else layout.carrier(home + hops, piece)

    steps: list[Step] = []
    for c in range(chunks):
        holder = carrier(distance, c % shares)
        if rank == holder:
            if distance:
                steps.append(recv(carrier(distance - 1, c % shares), chunk("out", c)))
            if distance < layout.count - 1:
                steps.append(send(carrier(distance + 1, c % shares), chunk("out", c)))
            steps += [send(other, chunk("out", c)) for other in layout.neighbours(rank)]
        else:
            steps.append(recv(holder, chunk("out", c)))
    return Schedule("broadcast", "hierarchical", n, rank, {"out": chunks}, tuple(steps))


def _to_the_carriers(layout: Hosts, rank: int, chunks: int, piece: Callable[[int], int]) -> list[Step]:
    """Each carrier gets its neighbours' pieces and adds them to its own."""
    host, _ = layout.place[rank]
    steps = []
    neighbours = layout.neighbours(rank)
    for other in neighbours:
        steps += [send(other, chunk("in", c)) for c in range(chunks) if layout.carrier(host, piece(c)) == other]
    for number, other in enumerate(reversed(neighbours)):
        for c in range(chunks):
            if layout.carrier(host, piece(c)) == rank:
                steps.append(recv_reduce(other, chunk("out", c), chunk("out" if number else "in", c)))
    return steps


def _to_the_neighbours(layout: Hosts, rank: int, chunks: int, piece: Callable[[int], int]) -> list[Step]:
    host, _ = layout.place[rank]
    steps = []
    for c in range(chunks):
        holder = layout.carrier(host, piece(c))
        if holder == rank:
            steps += [send(other, chunk("out", c)) for other in layout.neighbours(rank)]
        else:
            steps.append(recv(holder, chunk("out", c)))
    return steps
