"""What one peer keeps of its operations and of what it moved, in rings of a fixed size: the oldest is written over.

Written on the hot path, by whichever thread runs an operation, and read by others, all without a lock: a record is a tuple that
is made first and then stored by one assignment, which the interpreter does as a whole; the count goes up after that. Two
communicators may end operations at the same moment, and take the same place: then one record is lost, and nothing else. A
reader copies the list, which is one step of the interpreter's, too.
"""

from __future__ import annotations

from typing import NamedTuple

OPERATIONS = 16_384
TRANSFERS = 65_536


class OperationRecord(NamedTuple):
    """One call. Times are of the peer's monotonic clock, in seconds, 0.0 for what did not happen: ``enter`` when it was called,
    ``first`` when anything came from others, ``last`` when this rank had all, ``commit`` when it knew that all had, ``exit``
    when the call returned. ``waited``: seconds in which nothing came for some milliseconds and longer. ``outcome``: "" or the
    name of the error."""

    gid: int
    epoch: int
    seq: int
    kind: str
    nbytes: int
    algorithm: str
    enter: float
    first: float
    last: float
    commit: float
    exit: float
    waited: float
    outcome: str


class TransferRecord(NamedTuple):
    """What one operation moved over connection number ``stream`` to or from ``member``. ``ready``: when this end would have
    begun; ``first``, ``done``: when the first bytes moved, and the last."""

    gid: int
    epoch: int
    seq: int
    member: int
    stream: int
    incoming: bool
    ready: float
    first: float
    done: float
    nbytes: int


class Recorder:
    """``capacity`` operations and ``transfers`` transfers are kept."""

    def __init__(self, capacity: int = OPERATIONS, transfers: int = TRANSFERS):
        if capacity < 1 or transfers < 1:
            raise ValueError(f"a recorder keeps one record or more of each kind, not {capacity} and {transfers}")
        self._operations: list[tuple[object, ...] | None] = [None] * capacity
        self._transfers: list[tuple[object, ...] | None] = [None] * transfers
        self._operation_count = 0
        self._transfer_count = 0
        self._capacity = capacity
        self._transfer_capacity = transfers

    def operation(
        self,
        gid: int,
        epoch: int,
        seq: int,
        kind: str,
        nbytes: int,
        algorithm: str,
        enter: float,
        first: float,
        last: float,
        commit: float,
        exit: float,
        waited: float,
        outcome: str,
    ) -> None:
        count = self._operation_count
        self._operations[count % self._capacity] = (
            gid, epoch, seq, kind, nbytes, algorithm, enter, first, last, commit, exit, waited, outcome,
        )  # fmt: skip
        self._operation_count = count + 1

    def transfer(
        self,
        gid: int,
        epoch: int,
        seq: int,
        member: int,
        stream: int,
        incoming: bool,
        ready: float,
        first: float,
        done: float,
        nbytes: int,
    ) -> None:
        count = self._transfer_count
        self._transfers[count % self._transfer_capacity] = (
            gid, epoch, seq, member, stream, incoming, ready, first, done, nbytes,
        )  # fmt: skip
        self._transfer_count = count + 1

    def operations(self) -> list[OperationRecord]:
        """Those that are kept, oldest first."""
        return self.since(0)[0]

    def transfers(self) -> list[TransferRecord]:
        """Those that are kept, oldest first."""
        return [TransferRecord(*row) for row in _ordered(self._transfers, self._transfer_count, 0)]  # type: ignore[arg-type]

    def since(self, count: int) -> tuple[list[OperationRecord], int]:
        """Those that came after the first ``count``, as far as they are kept, and how many there have been."""
        now = self._operation_count
        rows = _ordered(self._operations, now, count)
        return [OperationRecord(*row) for row in rows], now  # type: ignore[arg-type]


def _ordered(ring: list[tuple[object, ...] | None], count: int, after: int) -> list[tuple[object, ...]]:
    size = len(ring)
    first = max(after, count - size)
    kept = [ring[number % size] for number in range(first, count)]
    return [row for row in kept if row is not None]
