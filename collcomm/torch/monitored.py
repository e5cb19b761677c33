"""A barrier at which rank 0 hears of everybody, and says who did not come."""

from __future__ import annotations

import time

import numpy as np
import torch.distributed as dist

from ..communicator import Communicator
from ..errors import CollcommError

COMING, GOING = (1 << 32) - 1, (1 << 32) - 2  # tags: nobody else's


class MonitoredBarrier:
    """Everybody tells rank 0 that it is here, and waits for its answer, as at Gloo's. ``number``: how many there have been, so
    that who comes late to one that has failed is not taken for one who has come to the next. ``waits_for_all``: rank 0 tells
    of all that are missing, not of the first."""

    def __init__(self, comm: Communicator, number: int, seconds: float, waits_for_all: bool):
        self._comm = comm
        self._number = np.array([number], np.int64)
        self._seconds = seconds
        self._waits_for_all = waits_for_all
        self._until = time.monotonic() + seconds

    def run(self) -> None:
        """Raises RuntimeError."""
        if self._comm.rank == 0:
            self._lead()
        else:
            self._follow()

    def _left(self) -> float:
        return max(1e-3, self._until - time.monotonic())

    def _hear(self, rank: int, tag: int) -> None:
        """Of this barrier; what is left of earlier ones is thrown away."""
        box = np.zeros(1, np.int64)
        while box[0] < self._number[0]:
            self._comm.recv(box, rank, tag, timeout=self._left())

    def _follow(self) -> None:
        try:
            self._comm.send(self._number, 0, COMING, timeout=self._left())
            self._hear(0, GOING)
        except CollcommError as error:
            raise _failed(
                f"Rank {self._comm.rank} successfully reached monitoredBarrier, but received errors while waiting for send/recv "
                f"from rank 0. Please check rank 0 logs for faulty rank.",
                error,
            ) from None

    def _lead(self) -> None:
        if self._seconds <= 0:
            raise _failed(f"Rank 0 timed out in monitoredBarrier after {self._seconds * 1e3:.0f} ms", None)
        missing: list[int] = []
        last: CollcommError | None = None
        for rank in range(1, self._comm.size):
            try:
                self._hear(rank, COMING)
            except CollcommError as error:
                missing.append(rank)
                last = error
                if not self._waits_for_all:
                    break
        if missing:
            named = ", ".join(map(str, missing))
            many = "Ranks" if self._waits_for_all else "Rank"
            raise _failed(
                f"[Rank 0]: {many} {named} failed to pass monitoredBarrier in {self._seconds * 1e3:.0f} ms", last
            )
        for rank in range(1, self._comm.size):
            self._comm.send(self._number, rank, GOING, timeout=self._left())


def _failed(text: str, cause: BaseException | None) -> BaseException:
    error: BaseException = dist.DistBackendError(f"{text} ({cause})")
    error.__cause__ = cause
    return error
