"""Dumps as a trace that Perfetto and Chrome's tracing page show: all peers on one clock (`clocks` says how exactly).

Each peer is a process. Its tracks: one for each communicator, with operations and, inside of these, their phases; one for each
connection and direction, with what was moved over it; and a counter of bytes per second sent and received. Arrows go from what
one peer has sent to what the other has received of it. Of small operations the engine records transfers only now and then;
arrows and counters have only what was recorded.

    phase        from .. to
    waiting      the call .. the first byte from others
    data         that .. all that this member needs
    commit       that .. this member knows that all have it
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .clocks import PeerClock, clocks_of
from .dump import Dump
from .records import OperationRecord, TransferRecord

MOST_EVENTS = 1_000_000  # viewers take no more; of too much, the last
BUCKETS = 500  # of a counter
LEAST_BUCKET = 1e-3  # seconds
_EVENTS_PER_OPERATION, _EVENTS_PER_TRANSFER = 4, 2
_MICRO = 1e6
Event = dict[str, Any]
Key = tuple[int, int, int, int, int, int]


def chrome_trace(dumps: Sequence[Dump], last: float | None = None, most: int = MOST_EVENTS) -> dict[str, Any]:
    """The JSON object of the trace event format. ``last``: only so many seconds before the last record; ``most``: events, at
    most about so many, the last ones. Times begin with the first record shown; ``otherData`` has that moment, in seconds since
    1970."""
    clocks = clocks_of(dumps)
    tracks = [_Peer(dump, clock) for dump, clock in zip(dumps, clocks, strict=True)]
    begin = _beginning(tracks, last, most)
    events: list[Event] = []
    for track in tracks:
        events += track.names()
        events += track.operations(begin)
        events += track.transfers(begin)
        events += track.counters(begin)
    events += _arrows(tracks, begin)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "group": dumps[0].header.group if dumps else "",
            "begin": begin,
            "peers": len(dumps),
            "set by commits": sum(1 for clock in clocks if clock.common),
            "left out": sum(track.before(begin) for track in tracks),
        },
    }


class _Peer:
    """The part of one peer. Tracks have numbers: communicators first, then connections, in the order of their names."""

    def __init__(self, dump: Dump, clock: PeerClock):
        self.dump, self.clock = dump, clock
        self.member = dump.header.member
        self._names = {one.id: one.name for one in dump.header.members}
        gids = sorted({one.gid for one in dump.operations} | {one.gid for one in dump.header.open})
        lines = sorted({_line(one) for one in dump.transfers})
        self._gid_tracks = {gid: number for number, gid in enumerate(gids, 1)}
        self._line_tracks = {line: number for number, line in enumerate(lines, 1 + len(gids))}

    def ends(self) -> Iterator[tuple[float, int]]:
        """When each record ended, and how many events it makes."""
        for operation in self.dump.operations:
            yield self.clock.time(operation.exit), _EVENTS_PER_OPERATION
        for transfer in self.dump.transfers:
            yield self.clock.time(transfer.done), _EVENTS_PER_TRANSFER

    def before(self, begin: float) -> int:
        """Records that are not shown."""
        return sum(1 for end, _ in self.ends() if end < begin)

    def names(self) -> Iterator[Event]:
        header = self.dump.header
        yield self._meta("process_name", name=f"{header.name} (member {header.member}, rank {header.rank})")
        yield self._meta("process_sort_index", sort_index=header.rank)
        for gid, track in self._gid_tracks.items():
            yield self._meta("thread_name", track, name=f"communicator {gid}" if gid else "operations")
            yield self._meta("thread_sort_index", track, sort_index=track)
        for (gid, member, stream, incoming), track in self._line_tracks.items():
            way = "from" if incoming else "to"
            within = f" of communicator {gid}" if gid else ""
            yield self._meta("thread_name", track, name=f"{way} {self.name_of(member)}, stream {stream}{within}")
            yield self._meta("thread_sort_index", track, sort_index=track)

    def name_of(self, member: int) -> str:
        return self._names.get(member, f"member {member}")

    def operations(self, begin: float) -> Iterator[Event]:
        for one in self.dump.operations:
            if self.clock.time(one.exit) < begin:
                continue
            track = self._gid_tracks[one.gid]
            facts = {"seq": one.seq, "epoch": one.epoch, "bytes": one.nbytes, "algorithm": one.algorithm}
            facts |= {"waited_ms": one.waited * 1e3, "outcome": one.outcome or "done"}
            yield self._slice(one.kind, "operation", track, one.enter, one.exit, begin, facts)
            for phase, start, end in _phases(one):
                yield self._slice(phase, "phase", track, start, end, begin, {})
        for open_ in self.dump.header.open:
            made = self.dump.monotonic
            facts = {"seq": open_.seq, "epoch": open_.epoch, "bytes": open_.nbytes, "outcome": "open"}
            facts |= {"silent_ms": open_.silent * 1e3, "waits_for": [self.name_of(one) for one in open_.waiting_on]}
            track = self._gid_tracks[open_.gid]
            yield self._slice(f"{open_.kind} (open)", "operation", track, made - open_.age, made, begin, facts)

    def transfers(self, begin: float) -> Iterator[Event]:
        for one in self.dump.transfers:
            if self.clock.time(one.done) >= begin:
                facts = {"seq": one.seq, "bytes": one.nbytes, "waited_ms": max(0.0, one.first - one.ready) * 1e3}
                name = f"{one.nbytes:,} bytes"
                track = self._line_tracks[_line(one)]
                yield self._slice(name, "transfer", track, _start(one), one.done, begin, facts)

    def counters(self, begin: float) -> Iterator[Event]:
        for incoming, name in ((False, "sent, bytes/s"), (True, "received, bytes/s")):
            moved = [one for one in self.dump.transfers if one.incoming == incoming]
            for at, rate in _rates(moved, self.clock, begin):
                yield {"ph": "C", "name": name, "pid": self.member, "ts": _ticks(at - begin), "args": {"rate": rate}}

    def place(self, one: TransferRecord, at: float, begin: float) -> Event:
        """Where an arrow begins or ends: inside of what was moved."""
        track = self._line_tracks[_line(one)]
        return {"pid": self.member, "tid": track, "ts": _ticks(self.clock.time(at) - begin), "cat": "message"}

    def _slice(
        self, name: str, category: str, track: int, start: float, end: float, begin: float, facts: dict[str, Any]
    ) -> Event:
        ticks = _ticks(self.clock.time(start) - begin)
        length = max(0.0, _ticks(self.clock.time(end) - begin) - ticks)
        event = {"ph": "X", "name": name, "cat": category, "pid": self.member, "tid": track}
        return {**event, "ts": ticks, "dur": length, "args": facts}

    def _meta(self, what: str, track: int = 0, **facts: Any) -> Event:
        return {"ph": "M", "name": what, "pid": self.member, "tid": track, "args": facts}


def _beginning(tracks: Sequence[_Peer], last: float | None, most: int) -> float:
    """From when on records are shown, in seconds since 1970: those that ended before are not."""
    ends = sorted((end for track in tracks for end in track.ends()), reverse=True)
    if not ends:
        return max((track.clock.time(track.dump.monotonic) for track in tracks), default=0.0)
    room, begin = most, ends[0][0]
    for end, events in ends:
        room -= events
        if room < 0 or (last is not None and end < ends[0][0] - last):
            return begin
        begin = end
    starts = [track.clock.time(one.enter) for track in tracks for one in track.dump.operations]
    starts += [track.clock.time(_start(one)) for track in tracks for one in track.dump.transfers]
    return min(starts)


def _arrows(tracks: Sequence[_Peer], begin: float) -> Iterator[Event]:
    """From each thing sent to the same thing received: of one operation, from one member to another, over the same stream,
    the first sent is the first received."""
    received: dict[Key, list[tuple[_Peer, TransferRecord]]] = defaultdict(list)
    for track in tracks:
        for one in track.dump.transfers:
            if one.incoming:
                received[one.gid, one.epoch, one.seq, one.member, track.member, one.stream].append((track, one))
    taken: dict[Key, int] = defaultdict(int)
    number = 0
    for track in tracks:
        for one in track.dump.transfers:
            key = one.gid, one.epoch, one.seq, track.member, one.member, one.stream
            if one.incoming or taken[key] >= len(received.get(key, ())):
                continue
            target, other = received[key][taken[key]]
            taken[key] += 1
            if min(track.clock.time(one.done), target.clock.time(other.done)) < begin:
                continue
            number += 1
            yield {"ph": "s", "name": "message", "id": number, **track.place(one, _start(one), begin)}
            yield {"ph": "f", "bp": "e", "name": "message", "id": number, **target.place(other, _inside(other), begin)}


def _line(one: TransferRecord) -> tuple[int, int, int, bool]:
    return one.gid, one.member, one.stream, one.incoming


def _start(one: TransferRecord) -> float:
    """Whose first bytes were its last has no length, but for the time in which it was asked for."""
    return one.first if 0.0 < one.first < one.done else min(one.ready, one.done) or one.done


def _inside(one: TransferRecord) -> float:
    """Just before its end: an arrow ends in what is going on then."""
    return one.done - min(1e-6, (one.done - _start(one)) / 2)


def _phases(one: OperationRecord) -> Iterator[tuple[str, float, float]]:
    marks = [
        ("waiting", one.enter, one.first),
        ("data", one.first or one.enter, one.last),
        ("commit", one.last, one.commit),
    ]
    for name, start, end in marks:
        if 0.0 < start < end <= one.exit:
            yield name, start, end


def _rates(transfers: Sequence[TransferRecord], clock: PeerClock, begin: float) -> Iterator[tuple[float, float]]:
    """Bytes per second over time, in buckets; what a transfer has moved is spread evenly from its beginning to its end."""
    if not transfers:
        return
    starts = np.array([clock.time(_start(one)) for one in transfers])
    ends = np.maximum(np.array([clock.time(one.done) for one in transfers]), starts + 1e-6)
    rates = np.array([one.nbytes for one in transfers], dtype=float) / (ends - starts)
    moments = np.concatenate([starts, ends])
    order = np.argsort(moments, kind="stable")
    moments, slopes = moments[order], np.cumsum(np.concatenate([rates, -rates])[order])
    moved = np.concatenate([[0.0], np.cumsum(slopes[:-1] * np.diff(moments))])
    low, high = max(begin, float(moments[0])), float(moments[-1])
    if high <= low:
        return
    count = max(1, min(BUCKETS, int((high - low) / LEAST_BUCKET)))
    edges = np.linspace(low, high, count + 1)
    totals = np.interp(edges, moments, moved)
    for at, rate in zip(edges, np.diff(totals) / np.diff(edges), strict=False):
        yield float(at), max(0.0, float(rate))
    yield high, 0.0


def _ticks(seconds: float) -> float:
    return round(max(0.0, seconds) * _MICRO, 3)
