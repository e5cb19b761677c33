"""After a death: the survivors meet on a new communicator, report, and decide (`decision`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ...transports.mpi import Comm, CommFailed
from ..progress import Progress
from .decision import Decision, Report, decide, unpack_reports
from .turns import Turns

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Departed(Exception):
    """A member leaves instead of taking part in the operation."""


class Reports:
    """What one member has to remember for its reports, and what a decision has brought it."""

    def __init__(self) -> None:
        self.failed = 0
        self.late = False
        self.kept: tuple[int, Bytes | None] = (0, None)  # an operation whose records a survivor lacked

    def make(self, member: int, progress: Progress, expired: bool, leaving: bool, tardy: bool) -> Report:
        return Report(
            member,
            progress.epoch,
            progress.view.size,
            progress.entered,
            progress.complete,
            progress.committed,
            self.failed,
            int(self.late),
            int(expired),
            int(leaving),
            int(tardy),
        )


class Recovery:
    """One member's part. ``kept`` and ``turns``: where the records of its last operations are."""

    def __init__(self, comm: Comm, mine: Report, raise_on_loss: bool, kept: tuple[int, Bytes | None], turns: Turns):
        self._comm = comm
        self._mine = mine
        self._raise_on_loss = raise_on_loss
        self._kept = kept
        self._turns = turns
        self.members: list[int] = []  # of the new view, by rank
        self.records: Bytes | None = None  # of the last operation that has succeeded, if some member lacked them

    def run(self, until: float) -> tuple[Comm | None, Decision]:
        """The new communicator (None at who leaves) and what was decided. Raises TimeoutError.

        MPI's own calls here cannot be interrupted; a thread of its own makes them, and is left behind when time is up.
        """
        return within(until, self._meet)

    def _meet(self) -> tuple[Comm | None, Decision]:
        comm = self._comm
        while True:
            comm.revoke()
            comm = comm.shrink()
            try:
                return self._talk(comm)
            except CommFailed:
                pass  # another death: the survivors of this communicator meet again

    def _talk(self, comm: Comm) -> tuple[Comm | None, Decision]:
        reports = unpack_reports(comm.gather_bytes(self._mine.packed()))
        decision = decide(reports, self._raise_on_loss)
        if decision.holder >= 0:
            self.records = self._spread(comm, decision)
        leaving = [report.member for report in reports if report.leaving]
        self.members = [report.member for report in reports if not report.leaving]
        if leaving:
            if self._mine.member in leaving:
                return None, decision
            staying = [rank for rank, report in enumerate(reports) if not report.leaving]
            return comm.subset(staying, decision.epoch), decision
        return comm, decision

    def _spread(self, comm: Comm, decision: Decision) -> Bytes:
        seq, kept = self._kept
        mine = kept if kept is not None and seq == decision.decided else self._turns.records(decision.decided)
        count = np.array([mine.size])
        comm.spread_bytes(count.view(np.uint8), decision.holder)
        data = np.empty(int(count[0]), np.uint8)
        if comm.rank == decision.holder:
            data[:] = mine
        comm.spread_bytes(data, decision.holder)
        return data


def within(until: float, work: Callable[[], Any]) -> Any:
    """What ``work`` returns or raises, if it does so before ``until``; else raises TimeoutError."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="collcomm-mpi-recovery", daemon=True)
    thread.start()
    thread.join(max(0.0, until - time.monotonic()))
    if not outcome:
        raise TimeoutError
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
