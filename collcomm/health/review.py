"""What the dumps of a group say in numbers: how long operations took, who came late, what a byte took from whom to whom."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from .clocks import PeerClock, clocks_of
from .dump import Dump
from .records import OperationRecord, TransferRecord

SLOWEST = 20
SHOWN_OPERATIONS = 200  # of a timeline, of each peer
LEAST_BYTES = 1 << 12  # smaller transfers tell of latency, not of what a byte takes
Key = tuple[int, int, int]
Cell = tuple[int, int]


class Durations(NamedTuple):
    """Of operations of one kind and at least half of ``nbytes``, but not more, at all peers together; in seconds, from the call
    to the return."""

    kind: str
    nbytes: int
    operations: int
    median: float
    high: float  # 99 in 100 are shorter
    longest: float


class Lateness(NamedTuple):
    """By how much a member came later to operations than the first, in seconds; ``last``: the share to which it came last."""

    member: int
    operations: int
    median: float
    high: float
    last: float


class Slow(NamedTuple):
    """One operation: ``began`` in seconds since 1970; ``seconds`` from the first call to the last commit; ``came``: who called
    it last, ``late`` seconds after the first."""

    key: Key
    kind: str
    nbytes: int
    algorithm: str
    began: float
    seconds: float
    came: int
    late: float


class Span(NamedTuple):
    """For a timeline; seconds since 1970."""

    start: float
    end: float
    kind: str
    outcome: str  # "", "open", or the name of an error


@dataclass(frozen=True)
class Review:
    """``costs``: seconds per byte, by sender and receiver; ``missing``: members of the newest view of which there is no dump."""

    dumps: Sequence[Dump]
    clocks: Sequence[PeerClock]
    durations: Sequence[Durations]
    lateness: Sequence[Lateness]
    costs: Mapping[Cell, float]
    slowest: Sequence[Slow]
    timeline: Mapping[int, Sequence[Span]]
    names: Mapping[int, str]
    missing: Sequence[int]


def review(dumps: Sequence[Dump]) -> Review:
    """``dumps``: one of each peer."""
    clocks = clocks_of(dumps)
    newest = max((dump.header for dump in dumps), key=lambda header: header.epoch, default=None)
    names = {one.id: one.name for dump in dumps for one in dump.header.members}
    names |= {dump.header.member: dump.header.name for dump in dumps}
    here = {dump.header.member for dump in dumps}
    common = _by_operation(dumps, clocks)
    return Review(
        dumps,
        clocks,
        _durations(dumps),
        _lateness(common),
        _costs(dumps, clocks),
        _slowest(common),
        {dump.header.member: _timeline(dump, clock) for dump, clock in zip(dumps, clocks, strict=True)},
        names,
        [] if newest is None else [one.id for one in newest.members if one.id not in here],
    )


class _Part(NamedTuple):
    """One member's part of an operation; common time."""

    member: int
    record: OperationRecord
    enter: float
    commit: float


def _by_operation(dumps: Sequence[Dump], clocks: Sequence[PeerClock]) -> dict[Key, list[_Part]]:
    """Those that were committed."""
    found: dict[Key, list[_Part]] = defaultdict(list)
    for dump, clock in zip(dumps, clocks, strict=True):
        for one in dump.operations:
            if one.commit > 0.0:
                part = _Part(dump.header.member, one, clock.time(one.enter), clock.time(one.commit))
                found[one.gid, one.epoch, one.seq].append(part)
    return found


def _durations(dumps: Iterable[Dump]) -> list[Durations]:
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for dump in dumps:
        for one in dump.operations:
            if not one.outcome:
                found[one.kind, size_class(one.nbytes)].append(max(0.0, one.exit - one.enter))
    return [
        Durations(kind, nbytes, len(took), median(took), _high(took), max(took))
        for (kind, nbytes), took in sorted(found.items())
    ]


def size_class(nbytes: int) -> int:
    """The power of two that is not less."""
    return 1 << (nbytes - 1).bit_length() if nbytes > 0 else 0


def _high(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def _lateness(common: Mapping[Key, Sequence[_Part]]) -> list[Lateness]:
    """No clocks are compared: all leave an operation at about the same time, so who was in it for the shortest time came last."""
    late: dict[int, list[float]] = defaultdict(list)
    last: dict[int, int] = defaultdict(int)
    for parts in common.values():
        if len(parts) > 1:
            took = {part.member: part.record.commit - part.record.enter for part in parts}
            longest = max(took.values())
            for member, seconds in took.items():
                late[member].append(longest - seconds)
            last[min(took, key=lambda member: took[member])] += 1
    return [
        Lateness(member, len(values), median(values), _high(values), last[member] / len(values))
        for member, values in sorted(late.items())
    ]


def _slowest(common: Mapping[Key, Sequence[_Part]]) -> list[Slow]:
    found = []
    for key, parts in common.items():
        began, ended = min(part.enter for part in parts), max(part.commit for part in parts)
        came = min(parts, key=lambda part: part.record.commit - part.record.enter)
        longest = max(part.record.commit - part.record.enter for part in parts)
        late = longest - (came.record.commit - came.record.enter)
        one = came.record
        found.append(Slow(key, one.kind, one.nbytes, one.algorithm, began, ended - began, came.member, late))
    return sorted(found, key=lambda slow: -slow.seconds)[:SLOWEST]


def _costs(dumps: Sequence[Dump], clocks: Sequence[PeerClock]) -> dict[Cell, float]:
    """C4's matrix (Dong et al. 2024): from when both ends were ready to the last byte, by bytes. Where only one end has a
    record of it, from the first byte there to the last. Of several messages of one operation over the same stream, the first
    sent is the first received. What took less than clocks are exact to tells nothing."""
    ready: dict[tuple[int, ...], deque[float]] = defaultdict(deque)
    for dump, clock in zip(dumps, clocks, strict=True):
        for one in dump.transfers:
            if not one.incoming:
                ready[_message(one, dump.header.member, one.member)].append(clock.time(one.ready))
    here = {dump.header.member for dump in dumps}
    seconds: dict[Cell, float] = defaultdict(float)
    nbytes: dict[Cell, int] = defaultdict(int)
    for dump, clock in zip(dumps, clocks, strict=True):
        member = dump.header.member
        for one in dump.transfers:
            if not one.incoming and one.member in here:
                continue  # the receiver tells
            cell = (one.member, member) if one.incoming else (member, one.member)
            sent = ready.get(_message(one, *cell)) if one.incoming else None
            begin = sent.popleft() if sent else None
            if one.nbytes < LEAST_BYTES:
                continue
            ready_here = one.first if begin is None else one.ready
            took = clock.time(one.done) - max(clock.time(ready_here), begin or 0.0)
            if took > 0.0:
                seconds[cell] += took
                nbytes[cell] += one.nbytes
    return {cell: seconds[cell] / nbytes[cell] for cell in sorted(nbytes)}


def _message(one: TransferRecord, source: int, target: int) -> tuple[int, ...]:
    return one.gid, one.epoch, one.seq, source, target, one.stream


def _timeline(dump: Dump, clock: PeerClock) -> list[Span]:
    spans = [
        Span(clock.time(one.enter), clock.time(one.exit), one.kind, one.outcome)
        for one in dump.operations[-SHOWN_OPERATIONS:]
    ]
    made = clock.time(dump.monotonic)
    return spans + [Span(made - one.age, made, one.kind, "open") for one in dump.header.open]
