"""Cuts messages into the frames in which they travel.

Both ends of a link cut alike, and neither needs to know how many streams the other sees at the moment: all frames have one
size, but the last of a message, and small messages, which go in one piece. Smaller ones would share out more evenly over
several streams; but on one stream between two processes of a host, an all_reduce of 64 MiB in frames of 64 KiB takes up to
twice as long as in frames of 256 KiB. So frames are smaller where links are known to be slow: a plan says so to all members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..collectives import Action

FRAME_BYTES = 1 << 18  # payload of one frame: what stays in L2 while it is reduced
WHOLE_BYTES = (
    1 << 16
)  # a message up to that is one frame: the other end may have no larger ones, and send it in one piece


@dataclass(frozen=True, slots=True)
class Message:
    """One step with its sizes. Ranges are in bytes of the named buffer; ``ordinal`` counts the pair's messages."""

    action: Action
    peer: int  # rank in the view
    ordinal: int
    nbytes: int
    source: str
    source_from: int
    target: str
    target_from: int
    received_first: bool
    after: tuple[int, ...]  # messages that this one must not overtake
    fresh: bool  # it is the first to write its target
    final: bool  # and the last

    @property
    def places(self) -> list[tuple[str, int]]:
        """Where it reads and writes: (buffer, first byte), each ``nbytes`` long."""
        return [place for place in ((self.source, self.source_from), (self.target, self.target_from)) if place[0]]


@dataclass(frozen=True, slots=True)
class Frame:
    """A part of a message that travels (or is copied) in one piece.

    ``after`` are frames of this rank that must be done before this one may start.
    """

    index: int
    action: Action
    offset: int  # within the message
    nbytes: int
    ordinal: int
    source: str
    source_from: int
    target: str
    target_from: int
    received_first: bool
    after: tuple[int, ...]
    fresh: bool
    final: bool


@dataclass(frozen=True)
class FrameOrder:
    """Frames by peer, sends and receives apart, in the order in which they start; ``local`` are copies within this rank.
    ``nbytes``: that go to others and come from them."""

    count: int
    nbytes: int
    sends: dict[int, list[Frame]]
    receives: dict[int, list[Frame]]
    local: list[Frame]


def cut(messages: Sequence[Message], itemsize: int, frame_bytes: int = FRAME_BYTES) -> FrameOrder:
    """All frames, numbered in program order, of ``frame_bytes`` at most, or `WHOLE_BYTES`."""
    sends: dict[int, list[Frame]] = {}
    receives: dict[int, list[Frame]] = {}
    local: list[Frame] = []
    starts: list[int] = []  # first frame of each message
    pieces: list[int] = []
    count = 0
    for message in messages:
        limit = frame_bytes - frame_bytes % itemsize if message.nbytes > WHOLE_BYTES else WHOLE_BYTES
        parts = max(1, -(-message.nbytes // limit))
        starts.append(count)
        pieces.append(parts)
        for part in range(parts):
            offset = part * limit
            after: list[int] = []
            for other in message.after:
                if _aligned(message, messages[other]):
                    after.append(starts[other] + part)
                else:
                    after.extend(range(starts[other], starts[other] + pieces[other]))
            frame = Frame(
                count,
                message.action,
                offset,
                min(limit, message.nbytes - offset),
                message.ordinal,
                message.source,
                message.source_from + offset,
                message.target,
                message.target_from + offset,
                message.received_first,
                tuple(after),
                message.fresh,
                message.final,
            )
            count += 1
            if message.action is Action.COPY:
                local.append(frame)
            else:
                (sends if message.action is Action.SEND else receives).setdefault(message.peer, []).append(frame)
    nbytes = sum(message.nbytes for message in messages if message.action is not Action.COPY)
    return FrameOrder(count, nbytes, sends, receives, local)


def _aligned(one: Message, other: Message) -> bool:
    """Whether the ranges that two messages share are equal, so that one may follow the other part by part."""
    return one.nbytes == other.nbytes and all(
        start == other_start or abs(start - other_start) >= one.nbytes
        for buffer, start in one.places
        for other_buffer, other_start in other.places
        if buffer == other_buffer
    )
