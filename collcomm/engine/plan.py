"""From a schedule and the sizes of its chunks to what an executor needs: byte ranges, order per stream, dependencies.

A plan is made once per (call, view) and used for every later call of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..collectives import Action, Schedule, Span

INLINE_BYTES = (
    1 << 16
)  # what is sent to a rank before anything is received; it fits the kernel's buffers, so sends do not block
INLINE_MESSAGES = 512
FRAME_BYTES = 1 << 18  # payload of one frame: what stays in L2 while it is reduced


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


@dataclass
class Plan:
    """What one rank does in one collective. ``peers``: ranks it exchanges data with. ``saves``: every message writes either
    fresh memory or memory written before, never some of both."""

    algorithm: str
    messages: tuple[Message, ...]
    sizes: dict[str, int]  # bytes of each buffer
    inline: bool
    itemsize: int
    peers: tuple[int, ...]
    saves: bool = True
    _frames: StreamOrder | None = field(default=None, repr=False)

    def frames(self, streams: int) -> StreamOrder:
        """The frames in the order of each stream, for links of ``streams`` streams."""
        if self._frames is None or self._frames.streams != streams:
            self._frames = _cut(self, streams)
        return self._frames


@dataclass(frozen=True)
class StreamOrder:
    """Frames by (peer, stream), sends and receives apart; ``local`` are copies within this rank."""

    streams: int
    count: int
    sends: dict[tuple[int, int], list[Frame]]
    receives: dict[tuple[int, int], list[Frame]]
    local: list[Frame]


def compile_plan(
    schedule: Schedule, bounds: Mapping[str, Sequence[int]], itemsize: int, in_place: bool = False
) -> Plan:
    """``bounds[buffer]``: where each chunk starts, and the end of the last, in elements of ``itemsize`` bytes.

    With ``in_place`` the buffers "in" and "out" are the same memory.
    """
    if in_place and "in" in schedule.chunks and not schedule.in_place:
        raise AssertionError(f"{schedule.kind} by {schedule.algorithm} cannot run in place")
    hazards = _Hazards()
    messages: list[Message] = []
    ordinals: dict[tuple[bool, int], int] = {}
    written: set[tuple[str, int]] = set()
    saves = True
    spans = [(step.source, step.target) for step in schedule.steps]
    if in_place:
        spans = [(_aliased(source), _aliased(target)) for source, target in spans]
    finals = _last_writers([target for _, target in spans])
    for index, step in enumerate(schedule.steps):
        read, written_span = spans[index]
        ordinal = 0
        if step.action is not Action.COPY:
            direction = (step.action is Action.SEND, step.peer)
            ordinal = ordinals.get(direction, 0)
            ordinals[direction] = ordinal + 1
        source, source_from, source_bytes = _range(read, bounds, itemsize)
        target, target_from, target_bytes = _range(written_span, bounds, itemsize)
        if source and target and source_bytes != target_bytes:
            raise AssertionError(f"{schedule.algorithm}: {step} joins {source_bytes} and {target_bytes} bytes")
        nbytes = source_bytes if source else target_bytes
        chunks = set(_chunks(written_span))
        fresh = chunks.isdisjoint(written)
        saves &= fresh or chunks <= written
        written |= chunks
        messages.append(
            Message(
                step.action,
                step.peer,
                ordinal,
                nbytes,
                source,
                source_from,
                target,
                target_from,
                step.received_first,
                hazards.before(index, read, written_span),
                fresh,
                index in finals,
            )
        )
    return Plan(
        algorithm=schedule.algorithm,
        messages=tuple(messages),
        sizes={buffer: edges[-1] * itemsize for buffer, edges in bounds.items()},
        inline=_most_in_a_row(messages) <= INLINE_BYTES and len(messages) <= INLINE_MESSAGES,
        itemsize=itemsize,
        peers=tuple(sorted({peer for _, peer in ordinals})),
        saves=saves,
    )


def _most_in_a_row(messages: Sequence[Message]) -> int:
    """The most bytes that go to one rank, or come from it, while nothing goes the other way or comes from elsewhere."""
    most, sent = 0, dict[int, int]()
    for message in messages:
        if message.action is Action.SEND:
            sent[message.peer] = sent.get(message.peer, 0) + message.nbytes
            most = max(most, sent[message.peer])
        elif message.action is not Action.COPY:
            sent.clear()
            most = max(most, message.nbytes)
    return most


def _last_writers(targets: Sequence[Span | None]) -> set[int]:
    """Which of the steps that write ``targets`` write what no later one writes."""
    found, later = set(), set[tuple[str, int]]()
    for index in reversed(range(len(targets))):
        chunks = set(_chunks(targets[index]))
        if chunks and chunks.isdisjoint(later):
            found.add(index)
        later |= chunks
    return found


def _aliased(span: Span | None) -> Span | None:
    return Span("out", span.first, span.last) if span is not None and span.buffer == "in" else span


def _range(span: Span | None, bounds: Mapping[str, Sequence[int]], itemsize: int) -> tuple[str, int, int]:
    if span is None:
        return "", 0, 0
    edges = bounds[span.buffer]
    return span.buffer, edges[span.first] * itemsize, (edges[span.last] - edges[span.first]) * itemsize


class _Hazards:
    """Which earlier messages a message must wait for: those that wrote what it touches, or read what it writes."""

    def __init__(self) -> None:
        self._writer: dict[tuple[str, int], int] = {}
        self._readers: dict[tuple[str, int], list[int]] = {}

    def before(self, index: int, source: Span | None, target: Span | None) -> tuple[int, ...]:
        found: set[int] = set()
        for chunk in _chunks(source):
            if chunk in self._writer:
                found.add(self._writer[chunk])
        for chunk in _chunks(target):
            if chunk in self._writer:
                found.add(self._writer[chunk])
            found.update(self._readers.pop(chunk, ()))
            self._writer[chunk] = index
        for chunk in _chunks(source):
            self._readers.setdefault(chunk, []).append(index)
        found.discard(index)
        return tuple(sorted(found))


def _chunks(span: Span | None) -> list[tuple[str, int]]:
    return [] if span is None else [(span.buffer, chunk) for chunk in range(span.first, span.last)]


def _aligned(one: Message, other: Message) -> bool:
    """Whether the ranges that two messages share are equal, so that one may follow the other part by part."""
    return one.nbytes == other.nbytes and all(
        start == other_start or abs(start - other_start) >= one.nbytes
        for buffer, start in one.places
        for other_buffer, other_start in other.places
        if buffer == other_buffer
    )


def _cut(plan: Plan, streams: int) -> StreamOrder:
    limit = FRAME_BYTES - FRAME_BYTES % plan.itemsize
    order = StreamOrder(streams, 0, {}, {}, [])
    starts: list[int] = []  # first frame of each message
    pieces: list[int] = []
    count = 0
    for message in plan.messages:
        parts = max(1, -(-message.nbytes // limit))
        starts.append(count)
        pieces.append(parts)
        for part in range(parts):
            offset = part * limit
            after: list[int] = []
            for other in message.after:
                if _aligned(message, plan.messages[other]):
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
                order.local.append(frame)
                continue
            queues = order.sends if message.action is Action.SEND else order.receives
            stream = 0 if message.nbytes <= INLINE_BYTES else (message.ordinal + part) % streams
            queues.setdefault((message.peer, stream), []).append(frame)
    return StreamOrder(streams, count, order.sends, order.receives, order.local)
