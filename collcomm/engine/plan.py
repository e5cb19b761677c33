"""From a schedule and the sizes of its chunks to what an executor needs: byte ranges, order, dependencies.

A plan is made once per (call, view) and used for every later call of the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..collectives import Action, Schedule, Span
from .cutting import FRAME_BYTES, WHOLE_BYTES, FrameOrder, Message, cut

# what is sent to a rank before anything is received; it fits the kernel's buffers, so sends do not block
INLINE_BYTES = WHOLE_BYTES
INLINE_MESSAGES = 512


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
    frame_bytes: int = FRAME_BYTES
    _frames: FrameOrder | None = field(default=None, repr=False)

    def frames(self) -> FrameOrder:
        """What it consists of on the wire."""
        if self._frames is None:
            self._frames = cut(self.messages, self.itemsize, self.frame_bytes)
        return self._frames


def compile_plan(
    schedule: Schedule,
    bounds: Mapping[str, Sequence[int]],
    itemsize: int,
    in_place: bool = False,
    frame_bytes: int = FRAME_BYTES,
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
        frame_bytes=frame_bytes,
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
