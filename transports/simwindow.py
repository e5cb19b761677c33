"""Windows of simulated peers: memory that they share in earnest, and waiting in virtual time."""

from __future__ import annotations

from typing import Any

import numpy as np

from .simnet import LOOK_SECONDS, Host, Network, Waiter
from .window import COUNT, HEADER_BYTES

PREEMPT_SHARE = 0.1  # of the looks into a window before which the process loses its processor
PREEMPT_SECONDS = 0.5  # at most


class SimWindow:
    """As `OwnWindow` to its owner and as `Window` to the others. A signal is a system call: its owner may die before or after."""

    spins = 0  # looks cost no time, so they find nothing new

    def __init__(self, network: Network, host: Host, nbytes: int):
        self.words = memoryview(bytearray(HEADER_BYTES)).cast("Q")
        self._network = network
        self._host = host
        self._data: np.ndarray[Any, np.dtype[np.uint8]] = np.zeros(nbytes, np.uint8)
        self._waiting: list[Waiter] = []

    @property
    def data(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Between two looks at it anything may happen."""
        scheduler = self._network.scheduler
        if scheduler.random.random() < PREEMPT_SHARE:
            scheduler.park(scheduler.waiter(), scheduler.random.random() * PREEMPT_SECONDS)
        return self._data

    def settle(self) -> None:
        """Writing and reading are over when they return."""

    def signal(self) -> None:
        self._host.step()
        self.words[COUNT] += 1
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.wake()
        self._host.step()

    def sleep(self, count: int) -> None:
        if self.words[COUNT] == count:
            waiter = self._network.scheduler.waiter()
            self._waiting.append(waiter)
            self._network.scheduler.park(waiter, LOOK_SECONDS)

    def close(self) -> None:
        """Whoever has it keeps it."""
