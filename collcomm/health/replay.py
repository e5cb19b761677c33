"""Dumps of a group's peers, as what they have told of themselves or would have told, second by second, and what follows from it.

A dump of a peer that was observed has its observations; of these only the times are changed, to those of the common clock.
Others are made from the records: operations as they were called, committed and left, and the operation that was open when the
dump was made. What is sent is taken from transfers: a link is busy from the first byte of one to its last. That lacks what
only the kernel of a running peer knows, how long the receiver took nothing and for how long bytes have been unacknowledged: of
links, records tell less than observations do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from math import ceil, floor

from .clocks import PeerClock, clocks_of
from .diagnosis import Diagnosis
from .dump import Dump
from .finding import Finding
from .limits import Limits
from .observation import INTERVAL_SECONDS, FlowReport, Observation, OpenOperation, Sample, sampled, stride_of
from .records import OperationRecord, TransferRecord

MOST_SECONDS = 24 * 3600  # of which observations are made from records; the last ones
TOGETHER_SECONDS = 10.0  # between dumps that were made for the same reason


def observations(dumps: Sequence[Dump]) -> Iterator[Observation]:
    """Of all peers, in the order of time; ``at`` is common time, in seconds since 1970."""
    clocks = clocks_of(dumps)
    return iter(_observations(dumps, clocks, _known_until(_made(dumps, clocks).values())))


def diagnose(dumps: Sequence[Dump]) -> list[Finding]:
    """What a coordinator would have found, and when (in seconds since 1970), of the members of which there are dumps. Views are
    told from the dumps: members of one are those that have been in it. Nobody is judged by what was remembered before others
    went on: who has made its dump long before the others is no member from then on, and of those that were made together the
    first is the end."""
    clocks = clocks_of(dumps)
    made = _made(dumps, clocks)
    until = _known_until(made.values())
    seen = [one for one in _observations(dumps, clocks, until) if one.at <= until]
    members: dict[int, set[int]] = defaultdict(set)
    for one in seen:
        members[one.epoch].add(one.member)
    diagnosis = Diagnosis(Limits(probe_patience=0.0))  # nobody probes any more
    findings, epoch, ticked = [], -1, 0.0
    ids: list[int] = []
    for at, together in groupby(seen, key=lambda one: one.at):
        told = list(together)
        newest = max(epoch, *(one.epoch for one in told))
        here = sorted(member for member in members[newest] if made[member] >= at)
        if (newest, here) != (epoch, ids):
            diagnosis.view_changed(at, newest, here, sorted(set(ids) - set(here)))
            epoch, ids = newest, here
        for one in told:
            diagnosis.observe(one)
        if at - ticked >= INTERVAL_SECONDS or at == until:
            ticked = at
            findings += diagnosis.tick(at)
    return findings


def _made(dumps: Sequence[Dump], clocks: Sequence[PeerClock]) -> dict[int, float]:
    """When each member's dump was made."""
    pairs = zip(dumps, clocks, strict=True)
    return {dump.header.member: clock.time(dump.monotonic) for dump, clock in pairs}


def _known_until(made: Iterable[float]) -> float:
    """Until when all are known that have made their dumps at about the same time as the last."""
    moments = list(made)
    return min((one for one in moments if one >= max(moments) - TOGETHER_SECONDS), default=0.0)


def _observations(dumps: Sequence[Dump], clocks: Sequence[PeerClock], until: float) -> list[Observation]:
    found: list[Observation] = []
    for dump, clock in zip(dumps, clocks, strict=True):
        if dump.observations:
            found += [replace(one, at=clock.time(one.at)) for one in dump.observations]
        else:
            found += _Remembered(dump, clock).observations(until)
    return sorted(found, key=lambda one: one.at)


class _Remembered:
    """What the records of one peer say, by the common clock: at whole seconds of it, and at those moments that matter."""

    def __init__(self, dump: Dump, clock: PeerClock):
        self._clock = clock
        self._member = dump.header.member
        self._epoch = dump.header.epoch
        self._made = clock.time(dump.monotonic)
        self._open = dump.header.open
        self._operations = sorted(dump.operations, key=lambda one: one.exit)
        self._exits = clock.times([one.exit for one in self._operations])
        enters = clock.times([one.enter for one in self._operations])
        self._enters = sorted((at, one.gid, one.seq) for at, one in zip(enters, self._operations, strict=True))
        self._enters += [(self._made - one.age, one.gid, one.seq) for one in dump.header.open]
        self._outgoing = _by_second(dump.transfers, clock)

    def observations(self, until: float) -> Iterator[Observation]:
        if not self._operations and not self._open:
            return
        first = min(at for at, _, _ in self._enters)
        begin = max(floor(first), ceil(self._made) - MOST_SECONDS)
        entered: dict[int, int] = {}
        known, epoch = 0, self._operations[0].epoch if self._operations else self._epoch
        seconds = map(float, range(begin + 1, ceil(self._made)))
        moments = sorted({*seconds, self._made, max(float(begin), min(until, self._made))} - {float(begin)})
        before = float(begin)
        for at in moments:
            while known < len(self._enters) and self._enters[known][0] <= at:
                _, gid, seq = self._enters[known]
                entered[gid] = max(seq, entered.get(gid, 0))
                known += 1
            low, high = bisect_right(self._exits, before), bisect_right(self._exits, at)
            ended = self._operations[low:high]
            epoch = max([epoch, *(one.epoch for one in ended)])
            if at == self._made:
                epoch = max(epoch, self._epoch)
            yield self._observation(before, at, epoch, entered, ended, high)
            before = at

    def _observation(
        self, before: float, at: float, epoch: int, entered: dict[int, int], ended: list[OperationRecord], count: int
    ) -> Observation:
        covers = max(at - before, 1e-3)
        inside = self._inside(at, count)
        in_operations = sum(min(one.exit - one.enter, covers) for one in ended)
        in_operations += sum(min(one.age, covers) for one in inside)
        stride = stride_of(len(ended) / covers)
        return Observation(
            self._member,
            epoch,
            at,
            covers,
            count,
            len(ended),
            dict(entered),
            max(0.0, covers - in_operations),
            tuple(inside),
            tuple(_sample(one) for one in ended if one.commit > 0.0 and sampled(one.seq, stride)),
            tuple(_flows(self._outgoing.get(floor(before), ()))),
        )

    def _inside(self, at: float, count: int) -> list[OpenOperation]:
        """The operations that this peer is in: one that ended later (in each communicator there is one at a time), or one that
        had not ended when the dump was made."""
        found = {}
        for one in self._operations[count : count + 64]:
            age = at - self._clock.time(one.enter)
            if age >= 0.0 and one.gid not in found:
                found[one.gid] = OpenOperation(one.gid, one.epoch, one.seq, one.kind, one.nbytes, age, 0.0, ())
        for open_ in self._open:
            past = self._made - at
            if open_.age >= past and open_.gid not in found:
                silent = max(0.0, open_.silent - past)
                waiting_on = open_.waiting_on if silent > 0.0 else ()
                found[open_.gid] = open_._replace(age=open_.age - past, silent=silent, waiting_on=waiting_on)
        return list(found.values())


def _sample(one: OperationRecord) -> Sample:
    return Sample(one.gid, one.epoch, one.seq, one.kind, one.nbytes, one.commit - one.enter, one.waited)


def _by_second(transfers: Sequence[TransferRecord], clock: PeerClock) -> dict[int, list[TransferRecord]]:
    """What was sent, by the second in which it was done."""
    found: dict[int, list[TransferRecord]] = defaultdict(list)
    sent = [one for one in transfers if not one.incoming]
    for one, done in zip(sent, clock.times([one.done for one in sent]), strict=True):
        found[floor(done)].append(one)
    return found


def _flows(transfers: Sequence[TransferRecord]) -> Iterator[FlowReport]:
    """By member; of several connections the busiest tells for how long the link was."""
    sent: dict[int, int] = defaultdict(int)
    busy: dict[int, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for one in transfers:
        sent[one.member] += one.nbytes
        busy[one.member][one.stream] += max(0.0, one.done - one.first)
    for member, nbytes in sent.items():
        yield FlowReport(member, nbytes, max(busy[member].values()), 0.0, 0.0, 0)
