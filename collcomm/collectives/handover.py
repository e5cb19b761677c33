"""An all_to_all over hosts: two hosts of m and k ranks exchange min(m, k) messages each way instead of m k (locality-aware, as in
Kinkead and others 2025). For many small blocks: what is saved is messages, and connections across the network; what it
costs is that most blocks are copied on their way, and several times the data in scratch.
"""

from __future__ import annotations

from .hosts import Hosts
from .schedule import Schedule, Span, Step, chunk, copy, recv, send


def all_to_all(n: int, rank: int, root: int = 0, hosts: tuple[int, ...] = ()) -> Schedule:
    """Blocks of one size only. A host hands what is for a rank of another host, which has no more ranks, to one carrier, who
    sends it there in one message. For a host with more ranks, each rank sends all in one message to a carrier there,
    who hands it out."""
    layout = Hosts.of(n, hosts)
    host, _ = layout.place[rank]
    ours, neighbours = layout.members[host], layout.neighbours(rank)
    number = {member: index for index, member in enumerate(r for members in layout.members for r in members)}
    memory = _Blocks()
    steps = memory.steps
    steps.append(copy(chunk("out", rank), chunk("in", rank)))
    targets = [layout.members[(host + hop) % layout.count] for hop in range(1, layout.count)]
    origins = [layout.members[(host - hop) % layout.count] for hop in range(1, layout.count)]

    for theirs in targets:
        if len(theirs) > len(ours):
            memory.send(_carrier(theirs, number[rank]), [chunk("in", other) for other in theirs])
    handed = [other for theirs in targets if len(theirs) <= len(ours) for other in theirs]
    for neighbour in neighbours:
        carried = [other for other in handed if _carrier(ours, number[other]) == neighbour]
        memory.send(neighbour, [chunk("in", other) for other in (*carried, neighbour)])

    carried = [other for other in handed if _carrier(ours, number[other]) == rank]
    rows = {other: memory.take(len(ours)) for other in carried} if neighbours else {}
    for other, row in rows.items():
        steps.append(copy(_within(row, ours.index(rank)), chunk("in", other)))
    for neighbour in reversed(neighbours):
        places = [_within(row, ours.index(neighbour)) for row in rows.values()]
        memory.receive(neighbour, [*places, chunk("out", neighbour)])
    steps += [send(other, rows.get(other, chunk("in", other))) for other in carried]

    handing_out = [other for theirs in origins if len(theirs) < len(ours) for other in theirs]
    carried = [other for other in handing_out if _carrier(ours, number[other]) == rank]
    rows = {neighbour: memory.take(len(carried)) for neighbour in neighbours} if carried else {}
    for theirs in origins:
        if len(theirs) >= len(ours):
            memory.receive(_carrier(theirs, number[rank]), [chunk("out", other) for other in theirs])
        for index, other in enumerate(carried):
            if other in theirs:
                places = [_within(rows[o], index) if o != rank else chunk("out", other) for o in ours]
                memory.receive(other, places)
    steps += [send(neighbour, row) for neighbour, row in rows.items()]
    for neighbour in reversed(neighbours):
        coming = [other for other in handing_out if _carrier(ours, number[other]) == neighbour]
        if coming:
            memory.receive(neighbour, [chunk("out", other) for other in coming])
    chunks = {"in": n, "out": n, **({"tmp": memory.taken} if memory.taken else {})}
    return Schedule("all_to_all", "hierarchical", n, rank, chunks, tuple(steps))


def _carrier(members: tuple[int, ...], number: int) -> int:
    """Which of a host's ranks has to do with the rank of that number, counted host by host: equal positions of equal hosts."""
    return members[number % len(members)]


def _within(row: Span, index: int) -> Span:
    return chunk(row.buffer, row.first + index)


class _Blocks:
    """Steps that put blocks in a row for one message, and apart again. A single block needs no row."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.taken = 0

    def take(self, count: int) -> Span:
        """Scratch for ``count`` blocks in a row."""
        self.taken += count
        return Span("tmp", self.taken - count, self.taken)

    def send(self, peer: int, blocks: list[Span]) -> None:
        if len(blocks) == 1:
            self.steps.append(send(peer, blocks[0]))
            return
        row = self.take(len(blocks))
        self.steps += [copy(_within(row, index), block) for index, block in enumerate(blocks)]
        self.steps.append(send(peer, row))

    def receive(self, peer: int, places: list[Span]) -> None:
        if len(places) == 1:
            self.steps.append(recv(peer, places[0]))
            return
        row = self.take(len(places))
        self.steps.append(recv(peer, row))
        self.steps += [copy(place, _within(row, index)) for index, place in enumerate(places)]
