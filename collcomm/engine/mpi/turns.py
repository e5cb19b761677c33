"""The openings of one communicator's operations: two that take turns, so that the records of the last operation stay until
the next has begun everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...transports.mpi import Comm
from ..request import Request
from .packed import HEAD_BYTES, record_bytes

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
LEAVING = 1 << 56  # in place of a fingerprint: this peer takes part in no further operation
_SEQ = 0xFFFFFF


class Turns:
    """A record's head: fingerprint (32 bits), number of the operation (24), flags (8)."""

    def __init__(self, comm: Comm):
        nbytes = record_bytes(comm.size)
        self.openings = (comm.opening(nbytes), comm.opening(nbytes))
        self._n = comm.size
        self._heads = [opening.rows.view(np.uint64)[:, 0] for opening in self.openings]
        self._of_turn = [
            (memoryview(opening.record.data).cast("Q"), opening.exchange, heads)
            for opening, heads in zip(self.openings, self._heads, strict=True)
        ]

    def exchange(self, seq: int, fingerprint: int, look: Callable[[], None]) -> bool:
        """Whether all ranks have come with the same head."""
        own, exchange, heads = self._of_turn[seq & 1]
        own[0] = head = fingerprint | (seq & _SEQ) << 32
        exchange(look)
        same: bool = heads.tolist().count(head) == self._n
        return same

    def say(self, seq: int, fingerprint: int) -> None:
        """As `exchange`, without waiting for it."""
        self._of_turn[seq & 1][0][0] = fingerprint | (seq & _SEQ) << 32
        self.openings[seq & 1].start()
        self.abandon()

    def abandon(self) -> None:
        """What was begun will not be waited for."""
        for opening in self.openings:
            opening.abandon()

    def load(self, seq: int, records: Bytes, fingerprint: int) -> bool:
        """Take over all records of an operation from somebody who has them; whether their heads are all alike."""
        turn = seq & 1
        self.openings[turn].rows[:] = records.reshape(self._n, -1)
        return self._heads[turn].tolist().count(fingerprint | (seq & _SEQ) << 32) == self._n

    def records(self, seq: int) -> Bytes:
        return self.openings[seq & 1].rows.reshape(-1)

    def fingerprints(self, seq: int) -> list[int]:
        return [head & 0xFFFFFFFF for head in self._heads[seq & 1].tolist()]

    def leavers(self, seq: int) -> list[int]:
        return [rank for rank, head in enumerate(self._heads[seq & 1].tolist()) if head & LEAVING]

    def absent(self, seq: int) -> list[int]:
        """Ranks whose record of ``seq`` has not come, as far as this rank can tell."""
        return [rank for rank, head in enumerate(self._heads[seq & 1].tolist()) if head >> 32 & _SEQ != seq & _SEQ]

    # -- counts of an uneven all_to_all -----------------------------------------------------------------------------

    def fill_counts(self, seq: int, request: Request, alive: Sequence[int]) -> None:
        pairs = self._pairs(request, alive)
        payload = self.openings[seq & 1].record[HEAD_BYTES:]
        if pairs.size <= payload.size:
            payload[: pairs.size] = pairs

    def wrong_counts(self, seq: int, comm: Comm, request: Request, alive: Sequence[int]) -> int | None:
        """The lowest rank that expects other sizes than it is sent. Raises CommFailed."""
        pairs = self._pairs(request, alive)
        rows = self.openings[seq & 1].rows[:, HEAD_BYTES:]
        rows = rows[:, : pairs.size] if pairs.size <= rows.shape[1] else comm.gather_bytes(pairs)
        table = np.ascontiguousarray(rows).view(np.uint32).reshape(self._n, 2, self._n)
        wrong = (table[:, 1, :] != table[:, 0, :].T).any(axis=1)
        return int(np.argmax(wrong)) if wrong.any() else None

    @staticmethod
    def _pairs(request: Request, alive: Sequence[int]) -> Bytes:
        sends = [request.sends[rank] & 0xFFFFFFFF for rank in alive]
        receives = [request.receives[rank] & 0xFFFFFFFF for rank in alive]
        return np.array([sends, receives], np.uint32).reshape(-1).view(np.uint8)
