"""What one peer keeps of its operations and of what it moved, in rings of a fixed size: the oldest is written over.

Written on the hot path, by whichever thread runs an operation, and read by others, all without a lock. A writer takes a number,
which is one step of the interpreter's (`itertools.count`), so that no two writers have the same; it makes a tuple that ends with
that number, and stores it in the number's place by one assignment, which is one step, too: nobody ever sees half a record. A
reader copies the list in one step, and goes by the numbers: the order is right, and nothing comes twice, also while the ring is
being written over. What a writer loses while it is held up between its two steps is the place in the ring, at worst to a
record that is one whole ring younger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, count, islice
from operator import itemgetter
from typing import Any, NamedTuple

OPERATIONS = 16_384
TRANSFERS = 65_536
HELD_UP = 64  # writers between their two steps, at most: threads of one peer that end an operation at the same moment
_number = itemgetter(-1)


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


def operation_of(row: tuple[Any, ...]) -> OperationRecord:
    """What `Recorder.since` gives a row of."""
    return OperationRecord._make(row[:-1])


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
    """``capacity`` operations and ``transfers`` transfers are kept. ``on_failure(outcome)``: hears of operations that failed."""

    def __init__(self, capacity: int = OPERATIONS, transfers: int = TRANSFERS):
        if capacity < 1 or transfers < 1:
            raise ValueError(f"a recorder keeps one record or more of each kind, not {capacity} and {transfers}")
        self._operations: list[tuple[Any, ...] | None] = [None] * capacity
        self._transfers: list[tuple[Any, ...] | None] = [None] * transfers
        self.on_failure: Callable[[str], object] | None = None
        self._next_operation = count().__next__
        self._next_transfer = count().__next__
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
        number = self._next_operation()
        self._operations[number % self._capacity] = (
            gid, epoch, seq, kind, nbytes, algorithm, enter, first, last, commit, exit, waited, outcome, number,
        )  # fmt: skip

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
        number = self._next_transfer()
        self._transfers[number % self._transfer_capacity] = (
            gid, epoch, seq, member, stream, incoming, ready, first, done, nbytes, number,
        )  # fmt: skip

    def failed(self, outcome: str) -> None:
        if self.on_failure is not None:
            self.on_failure(outcome)

    def operations(self) -> list[OperationRecord]:
        """Those that are kept, oldest first."""
        return [operation_of(row) for row in self.since(0)[0]]

    def transfers(self) -> list[TransferRecord]:
        """Those that are kept, oldest first."""
        return [TransferRecord._make(row[:-1]) for row in _ordered(self._transfers, 0)]

    def since(self, count: int) -> tuple[list[tuple[Any, ...]], int]:
        """Those that came after the first ``count``, as far as they are kept, and how many there have been. A row has the fields
        of `OperationRecord`, and its number: to make objects of thousands takes milliseconds of each second."""
        rows = _ordered(self._operations, count)
        return rows, rows[-1][-1] + 1 if rows else count


def _ordered(ring: Sequence[tuple[Any, ...] | None], after: int) -> list[tuple[Any, ...]]:
    """Numbers ``after`` and later, which lie from that one's place on; what is older follows, and is not looked through."""
    copied = list(ring)
    start = after % len(copied)
    found, passed = [], 0
    for row in chain(islice(copied, start, None), islice(copied, start)):
        if row is not None and row[-1] >= after:
            found.append(row)
        elif (passed := passed + 1) > HELD_UP:
            break
    found.sort(key=_number)
    return found
