"""The programs of all ranks, cut to sizes and joined to each other: what the simulator runs.

A *node* is a part of a step. A large message is cut into parts, since the engine lets a message follow another one of the same
range frame by frame: part k of the later one waits for part k of the earlier one only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..collectives import Action
from .program import FRAME_BYTES, INLINE_BYTES, Bounds, Place, Program, runs_inline

SEND, RECV, RECV_REDUCE, LOCAL = 0, 1, 2, 3
_KINDS = {
    Action.SEND: SEND,
    Action.RECV: RECV,
    Action.RECV_REDUCE: RECV_REDUCE,
    Action.COPY: LOCAL,
    Action.REDUCE: LOCAL,
}
_KIND = [_KINDS.get(Action(number), LOCAL) for number in range(len(Action))]


class Workload:
    """Columns by node: ``kind``, ``rank``, ``nbytes``; ``pending``: how many things it waits for; ``followers``: who waits until
    it is done; ``successor``: who waits until it has been issued (a send) or done; ``channel`` and ``twin`` of a send: its pair
    and stream, and the node that receives it. ``messages``: sends, however many parts they have; ``inline``: ranks that go step
    by step; ``channels``: (source, target, stream)."""

    def __init__(self, programs: Sequence[Program], bounds: Callable[[Program], Bounds], parts: int, streams: int):
        self.n = len(programs)
        self.messages = 0
        self.kind: list[int] = []
        self.rank: list[int] = []
        self.nbytes: list[float] = []
        self.pending: list[int] = []
        self.followers: list[list[int] | None] = []
        self.successor: list[int] = []
        self.channel: list[int] = []
        self.twin: list[int] = []
        self.inline: list[bool] = []
        self.channels: list[tuple[int, int, int]] = []
        self._parts = parts
        self._streams = streams
        self._sends: dict[tuple[int, int, int], list[int]] = {}
        self._receives: dict[tuple[int, int, int], list[int]] = {}
        for rank, program in enumerate(programs):
            if program.rank != rank or program.n != self.n:
                raise ValueError(
                    f"schedule {rank} of {self.n} is of rank {program.rank} of {program.n}: give all, by rank"
                )
            self._add(rank, program, bounds(program))
        self._join()

    def _add(self, rank: int, program: Program, bounds: Bounds) -> None:
        where = [
            _range(source or target, bounds) for source, target in zip(program.sources, program.targets, strict=True)
        ]
        sizes = [nbytes for _, nbytes in where]
        inline = runs_inline(program, sizes)
        self.inline.append(inline)
        ordinals: dict[tuple[bool, int], int] = {}
        firsts: list[int] = []
        counts: list[int] = []
        last = -1
        for index, action in enumerate(program.actions):
            kind, nbytes, peer = _KIND[action], sizes[index], program.peers[index]
            count = 1 if inline or nbytes <= FRAME_BYTES else min(self._parts, -(-nbytes // FRAME_BYTES))
            first = len(self.kind)
            firsts.append(first)
            counts.append(count)
            ordinal = 0
            self.messages += kind == SEND
            if kind != LOCAL:
                ordinal = ordinals.get((kind == SEND, peer), 0)
                ordinals[kind == SEND, peer] = ordinal + 1
            waits = () if inline else program.after[index]
            for part in range(count):
                node = first + part
                self._append(kind, rank, nbytes / count)
                for earlier in waits:
                    if count == counts[earlier] and (count == 1 or _aligned(program, index, earlier, bounds)):
                        self._follow(firsts[earlier] + part, node)
                    else:
                        behind = firsts[earlier] + counts[earlier]
                        for other in range(max(firsts[earlier], behind - self._streams), behind):
                            self._follow(other, node)
                if inline and last >= 0:
                    self.successor[last] = node
                    self.pending[node] += 1
                last = node
                if kind != LOCAL:
                    stream = 0 if nbytes <= INLINE_BYTES else (ordinal + part) % self._streams
                    queues = self._sends if kind == SEND else self._receives
                    ends = (rank, peer, stream) if kind == SEND else (peer, rank, stream)
                    queues.setdefault(ends, []).append(node)

    def _append(self, kind: int, rank: int, nbytes: float) -> None:
        self.kind.append(kind)
        self.rank.append(rank)
        self.nbytes.append(nbytes)
        self.pending.append(0)
        self.followers.append(None)
        self.successor.append(-1)
        self.channel.append(-1)
        self.twin.append(-1)

    def _follow(self, earlier: int, node: int) -> None:
        followers = self.followers[earlier]
        if followers is None:
            self.followers[earlier] = [node]
        else:
            followers.append(node)
        self.pending[node] += 1

    def _join(self) -> None:
        """Each send meets its receive, and both wait for those before them on the channel."""
        for ends, sends in self._sends.items():
            receives = self._receives.pop(ends, [])
            if len(sends) != len(receives):
                raise ValueError(
                    f"rank {ends[0]} sends {len(sends)} messages that rank {ends[1]} takes {len(receives)} of"
                )
            number = len(self.channels)
            self.channels.append(ends)
            in_order, out_order = not self.inline[ends[1]], not self.inline[ends[0]]
            before_send = before_receive = -1
            for send, receive in zip(sends, receives, strict=True):
                if self.nbytes[send] != self.nbytes[receive]:
                    sent, expected = self.nbytes[send], self.nbytes[receive]
                    raise ValueError(
                        f"rank {ends[0]} sends {sent:g} bytes, of which rank {ends[1]} expects {expected:g}"
                    )
                self.channel[send] = number
                self.twin[send] = receive
                self.pending[receive] += 1
                if before_send >= 0:
                    if out_order:
                        self.successor[before_send] = send
                        self.pending[send] += 1
                    if in_order:
                        self.successor[before_receive] = receive
                        self.pending[receive] += 1
                before_send, before_receive = send, receive
        if self._receives:
            source, target, _ = next(iter(self._receives))
            raise ValueError(f"rank {target} waits for a message that rank {source} does not send")


def _range(place: Place | None, bounds: Bounds) -> tuple[int, int]:
    """(first byte, bytes)"""
    if place is None:
        return 0, 0
    edges = bounds[place[0]]
    return edges[place[1]], edges[place[2]] - edges[place[1]]


def _aligned(program: Program, one: int, other: int, bounds: Bounds) -> bool:
    """Whether the ranges that two steps share are equal."""
    mine = [(place[0], _range(place, bounds)) for place in (program.sources[one], program.targets[one]) if place]
    theirs = [(place[0], _range(place, bounds)) for place in (program.sources[other], program.targets[other]) if place]
    return all(
        here == there or abs(here[0] - there[0]) >= max(here[1], there[1])
        for buffer, here in mine
        for other_buffer, there in theirs
        if buffer == other_buffer
    )
