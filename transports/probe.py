"""Measuring one link: how long a message takes, and how many bytes a second each way, both ways, over several streams.

The later member has dialled and asks; the other answers, one asker at a time. Records of fixed size go over the first
stream:

    asker                          answerer
    -----                          --------
    HELLO                      -->
                               <-- READY (whether it is in the middle of operations), when it has time
    PING                       -->
                               <-- PONG                                  some times, each end takes the shortest
    TAKE(streams, budget)      -->
    train on ``streams``       -->
                               <-- ENOUGH, if its estimate settles
                               <-- RESULT(rate), when the train is over
    GIVE(streams, budget)      -->
                               <-- train
    ENOUGH, RESULT(rate)       -->
    BOTH(budget)               -->
    train                      <-> train
    RESULT(rate)               <-> RESULT(rate)
    BYE                        -->

Both ends learn the rates: a receiver measures by its own clock, and a sender believes it as far as what it saw itself allows.
Anything else that comes ends the link, and with it the probe.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from .base import LinkBroken
from .stream import SocketStream
from .trains import Budget, Gauge, Trains

PINGS = 8
MOST_RECORDS = 200  # that an asker sends on one link
MOST_SECONDS = 2.0  # of a train, whatever is asked for
MOST_BYTES = 1 << 28
IDLE_SECONDS = 15.0  # between two records: longer than an asker pauses
RECORD = struct.Struct("<2sBBIQQddd")
MAGIC = b"PB"
BUSY, CONTENDED = 1, 2  # flags
QUIET_BYTES = 1 << 16  # of operations, during a train that counts as undisturbed


class ProbedLink(Protocol):
    member: int

    @property
    def streams(self) -> Sequence[SocketStream]: ...


@dataclass(frozen=True)
class Estimates:
    """The arithmetic of the planner: how a gauge is made from ``least`` and ``enough`` seconds, and what a sender that saw
    one rate makes of a receiver that tells another."""

    gauge: Callable[[float, float], Gauge]
    believed: Callable[[float, float], float]


class Kind(IntEnum):
    HELLO, READY, PING, PONG, TAKE, GIVE, BOTH, ENOUGH, RESULT, BYE = range(1, 11)


class Record(NamedTuple):
    """``flag``: `BUSY`, and of a RESULT `CONTENDED`; ``seconds``, ``least``, ``enough``: of a train; RESULT has the rate in
    ``seconds``."""

    kind: int
    streams: int = 1
    flag: int = 0
    nbytes: int = 0
    in_flight: int = 0
    seconds: float = 0.0
    least: float = 0.0
    enough: float = 0.0


@dataclass(frozen=True)
class Train:
    """What an asker wants sent; see `Trains`. ``least``, ``enough``: see the gauge."""

    least: float
    enough: float
    seconds: float
    nbytes: int
    in_flight: int


@dataclass
class Measurement:
    """Of a link, as one end sees it: ``latency`` in seconds one way, rates in bytes/s, 0.0 for what was not measured.
    ``both_out``, ``both_in``: while both directions are used. ``by_streams``: (streams, out, in)."""

    latency: float = 0.0
    out: float = 0.0
    in_: float = 0.0
    both_out: float = 0.0
    both_in: float = 0.0
    contended: bool = False  # the run's own traffic took its share meanwhile
    by_streams: list[tuple[int, float, float]] = field(default_factory=list)

    def note(self, streams: int, out: float = 0.0, in_: float = 0.0) -> None:
        """A train over so many streams has shown a rate."""
        rows = {count: (o, i) for count, o, i in self.by_streams}
        o, i = rows.get(streams, (0.0, 0.0))
        rows[streams] = (out or o, in_ or i)
        self.by_streams = [(count, *rows[count]) for count in sorted(rows)]
        if streams == 1:
            self.out, self.in_ = rows[1]


@dataclass(frozen=True)
class Surroundings:
    """What a probe asks of the peer that it runs in. ``check()`` is called every few milliseconds while waiting, and ends
    the wait by raising; ``busy()``: whether operations are running; ``moved()``: bytes of theirs sent and received so far."""

    check: Callable[[], None]
    busy: Callable[[], bool]
    moved: Callable[[], int]


class _End:
    """One end of a link. ``busy``: whether the other end has said last that it is."""

    def __init__(self, link: ProbedLink, estimates: Estimates, around: Surroundings):
        self.member = link.member
        self.measured = Measurement()
        self.busy = False
        self._streams = link.streams
        self._estimates = estimates
        self._check = around.check
        self._busy = around.busy
        self._moved = around.moved
        self._heard = b""
        self._shared = False  # the last train's time, with other traffic

    def say(self, record: Record) -> None:
        data = RECORD.pack(MAGIC, record.kind, record.streams, record.flag, *record[3:])
        deadline = time.monotonic() + IDLE_SECONDS
        while data:
            data = data[self._streams[0].send(data) :]
            if data:
                self._wait(deadline)

    def hear(self, *kinds: Kind, patience: float = 0.0) -> Record:
        """The next record, which is one of ``kinds``; ``patience``: seconds, if not the usual. Raises LinkBroken."""
        deadline = time.monotonic() + (patience or IDLE_SECONDS)
        while (record := self._next(self._streams[0].receive)) is None:
            self._wait(deadline)
        if record.kind not in kinds:
            raise self._rubbish(f"record {record.kind} out of turn")
        return record

    def _wait(self, deadline: float) -> None:
        self._check()
        if time.monotonic() > deadline:
            raise LinkBroken(self.member, "unacked", "it does not go on with the probe")

    def _next(self, read: Callable[[memoryview], int]) -> Record | None:
        target = bytearray(RECORD.size - len(self._heard))
        self._heard += target[: read(memoryview(target))]
        if len(self._heard) < RECORD.size:
            return None
        data, self._heard = self._heard, b""
        magic, *fields = RECORD.unpack(data)
        record = Record(*fields)
        bounded = all(math.isfinite(value) and value >= 0 for value in record[5:])
        if magic != MAGIC or not bounded or not 1 <= record.streams <= len(self._streams):
            raise self._rubbish(data.hex())
        return record

    def _told_enough(self) -> bool:
        record = self._next(self._streams[0].try_receive)
        if record is None:
            return False
        if record.kind != Kind.ENOUGH:
            raise self._rubbish(f"record {record.kind} during a train")
        return True

    def _rubbish(self, what: str) -> LinkBroken:
        return LinkBroken(self.member, "closed", f"it does not speak the protocol of probes: {what}")

    # -- trains ------------------------------------------------------------------------------------------------------

    def _gauge(self, train: Train) -> Gauge:
        return self._estimates.gauge(train.least, train.enough)

    def _send(self, streams: int, train: Train) -> float:
        seen = self._gauge(train)
        told = _Once(self._told_enough)
        self._run(self._streams[:streams], (), seen, self._gauge(train), train, told)
        result = self._told() if told.said else self._told(Kind.ENOUGH)
        rate = self._estimates.believed(result.seconds, seen.rate)
        self.measured.note(streams, out=rate)
        return rate

    def _receive(self, streams: int, train: Train) -> float:
        gauge = self._gauge(train)
        enough = Record(Kind.ENOUGH)
        self._run((), self._streams[:streams], self._gauge(train), gauge, train, None, lambda: self.say(enough))
        self._tell(gauge.rate)
        self.measured.note(streams, in_=gauge.rate)
        return gauge.rate

    def _both(self, train: Train) -> tuple[float, float]:
        seen, gauge = self._gauge(train), self._gauge(train)
        self._run(self._streams[:1], self._streams[:1], seen, gauge, train)
        self._tell(gauge.rate)
        told = self._told().seconds
        self.measured.both_out = self._estimates.believed(told, seen.rate)
        self.measured.both_in = gauge.rate
        return self.measured.both_out, gauge.rate

    def _tell(self, rate: float) -> None:
        self.say(Record(Kind.RESULT, flag=self._busy() | CONTENDED * self._shared, seconds=rate))

    def _told(self, *others: Kind) -> Record:
        """The other end's result."""
        result = self.hear(Kind.RESULT, *others)
        if result.kind != Kind.RESULT:
            result = self.hear(Kind.RESULT)
        self.busy = bool(result.flag & BUSY)
        self.measured.contended |= bool(result.flag & CONTENDED)
        return result

    def _run(
        self,
        outgoing: Sequence[SocketStream],
        incoming: Sequence[SocketStream],
        sent: Gauge,
        received: Gauge,
        budget: Budget,
        told_enough: Callable[[], bool] | None = None,
        on_settled: Callable[[], None] | None = None,
    ) -> None:
        never, nothing = (lambda: False), (lambda: None)
        before = self._moved()
        Trains(
            outgoing, incoming, sent, received, budget, self._check, told_enough or never, on_settled or nothing
        ).run()
        self._shared = self._moved() - before > QUIET_BYTES
        self.measured.contended |= self._shared


class _Once:
    """Asks until the answer is yes."""

    def __init__(self, ask: Callable[[], bool]):
        self._ask = ask
        self.said = False

    def __call__(self) -> bool:
        self.said = self.said or self._ask()
        return self.said


class Asker(_End):
    """The end that dialled. Call `begin` first, `end` last."""

    def begin(self, patience: float) -> None:
        """Wait until the other end has time, ``patience`` seconds at most. Raises LinkBroken, as all of these."""
        self.say(Record(Kind.HELLO))
        self.busy = bool(self.hear(Kind.READY, patience=patience).flag & BUSY)

    def ping(self) -> float:
        """Seconds one way."""
        shortest = math.inf
        for _ in range(PINGS):
            asked = time.perf_counter()
            self.say(Record(Kind.PING))
            self.busy = bool(self.hear(Kind.PONG).flag & BUSY)
            shortest = min(shortest, time.perf_counter() - asked)
        self.measured.latency = shortest / 2
        return self.measured.latency

    def send(self, streams: int, train: Train) -> float:
        """Bytes/s from here to there over so many of the link's streams."""
        self.say(_order(Kind.TAKE, streams, train))
        return self._send(streams, train)

    def receive(self, streams: int, train: Train) -> float:
        self.say(_order(Kind.GIVE, streams, train))
        return self._receive(streams, train)

    def both(self, train: Train) -> tuple[float, float]:
        """Bytes/s from here to there and back, at once."""
        self.say(_order(Kind.BOTH, 1, train))
        return self._both(train)

    def end(self) -> None:
        self.say(Record(Kind.BYE))


def answer(link: ProbedLink, estimates: Estimates, around: Surroundings) -> Measurement:
    """Do what the asker at the other end of ``link`` wants, until it says BYE; what this end has seen of the link.

    Raises LinkBroken when the other end does not say what an asker says, or stays silent.
    """
    return _Answerer(link, estimates, around).run()


class _Answerer(_End):
    def run(self) -> Measurement:
        self.hear(Kind.HELLO)
        self.say(Record(Kind.READY, flag=self._busy()))
        answered = 0.0
        for _ in range(MOST_RECORDS):
            asked = self.hear(Kind.PING, Kind.TAKE, Kind.GIVE, Kind.BOTH, Kind.BYE)
            now = time.perf_counter()
            if asked.kind == Kind.BYE:
                return self.measured
            if asked.kind == Kind.PING:
                self._pinged(now - answered if answered else 0.0)
                answered = time.perf_counter()
                self.say(Record(Kind.PONG, flag=self._busy()))
                continue
            answered = 0.0
            train = self._train(asked)
            if asked.kind == Kind.TAKE:
                self._receive(asked.streams, train)
            elif asked.kind == Kind.GIVE:
                self._send(asked.streams, train)
            else:
                self._both(train)
        raise self._rubbish(f"more than {MOST_RECORDS} records")

    def _pinged(self, trip: float) -> None:
        if trip:
            self.measured.latency = min(self.measured.latency or math.inf, trip / 2)

    def _train(self, asked: Record) -> Train:
        if max(asked.seconds, asked.least, asked.enough) > MOST_SECONDS or asked.nbytes > MOST_BYTES:
            raise self._rubbish(f"a train of {asked.seconds:g} s and {asked.nbytes} bytes")
        return Train(asked.least, asked.enough, asked.seconds, asked.nbytes, min(asked.in_flight, MOST_BYTES))


def _order(kind: Kind, streams: int, train: Train) -> Record:
    return Record(kind, streams, 0, train.nbytes, train.in_flight, train.seconds, train.least, train.enough)
