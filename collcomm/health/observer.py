"""What one peer sees of itself: made once a second from its records, its open operations and its connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from .observation import FlowReport, Observation, OpenOperation, Sample, sampled, stride_of
from .records import OperationRecord, operation_of

_SEQ, _ENTER, _EXIT = (OperationRecord._fields.index(name) for name in ("seq", "enter", "exit"))
FIRST_SECONDS = 1.0  # what the first observation covers, as far as rates go


class Records(Protocol):
    def since(self, count: int) -> tuple[Sequence[tuple[Any, ...]], int]:
        """The operations that have ended after the first ``count``, as far as they are kept, and how many there are now. See
        `records.operation_of`."""


class Standing(NamedTuple):
    """Where a communicator stands: the last operation that was called, and the one it is in, if it is in one."""

    gid: int
    entered: int
    open: OpenOperation | None


class Sent(NamedTuple):
    """What one connection to ``member`` has carried since it was made. See `FlowReport`."""

    member: int
    connection: int
    nbytes: int
    busy: float
    held: float
    silent: float
    lost: int


class Observer:
    """``standings()`` and ``sent()`` tell of all communicators and connections of this peer; ``view()``: its number and epoch."""

    def __init__(
        self,
        records: Records,
        view: Callable[[], tuple[int, int]],
        standings: Callable[[], Iterable[Standing]],
        sent: Callable[[], Iterable[Sent]],
        now: Callable[[], float] = time.monotonic,
    ):
        self._records = records
        self._view = view
        self._standings = standings
        self._sent = sent
        self._now = now
        self._count = 0
        self._told_at = 0.0
        self._before: dict[int, Sent] = {}  # by connection

    def observe(self) -> Observation:
        """What has happened since the last call."""
        now = self._now()
        covers = now - self._told_at if self._told_at else FIRST_SECONDS
        member, epoch = self._view()
        ended, self._count = self._records.since(self._count)
        standings = list(self._standings())
        inside = sum([row[_EXIT] - row[_ENTER] for row in ended])
        inside += sum(one.open.age for one in standings if one.open is not None)
        self._told_at = now
        return Observation(
            member=member,
            epoch=epoch,
            at=now,
            covers=covers,
            operations=self._count,
            operations_ended=len(ended),
            entered={one.gid: one.entered for one in standings},
            computed=max(0.0, covers - inside),
            open=tuple(one.open for one in standings if one.open is not None),
            samples=self._samples(ended, covers),
            flows=self._flows(),
        )

    def _samples(self, ended: Sequence[tuple[Any, ...]], covers: float) -> tuple[Sample, ...]:
        stride = stride_of(len(ended) / max(covers, 1e-3))
        found = [operation_of(row) for row in ended if sampled(row[_SEQ], stride)]
        return tuple(
            Sample(one.gid, one.epoch, one.seq, one.kind, one.nbytes, one.commit - one.enter, one.waited)
            for one in found
            if one.commit > 0.0
        )

    def _flows(self) -> tuple[FlowReport, ...]:
        found: dict[int, FlowReport] = {}
        after: dict[int, Sent] = {}
        for one in self._sent():
            after[one.connection] = one
            before = self._before.get(one.connection, Sent(one.member, one.connection, 0, 0.0, 0.0, 0.0, 0))
            moved = FlowReport(
                one.member,
                max(0, one.nbytes - before.nbytes),
                max(0.0, one.busy - before.busy),
                max(0.0, one.held - before.held),
                one.silent,
                max(0, one.lost - before.lost),
            )
            known = found.get(one.member)
            found[one.member] = moved if known is None else _together(known, moved)
        self._before = after
        return tuple(flow for flow in found.values() if flow.nbytes or flow.busy or flow.silent)


def _together(one: FlowReport, other: FlowReport) -> FlowReport:
    """Of several connections the busiest tells for how long the link was, and the most silent how long that has been."""
    return FlowReport(
        one.target,
        one.nbytes + other.nbytes,
        max(one.busy, other.busy),
        max(one.held, other.held),
        max(one.silent, other.silent),
        one.lost + other.lost,
    )
