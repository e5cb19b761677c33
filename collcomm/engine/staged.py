"""A device's array and its copy in host memory, for operations whose members do not all meet on devices of one host.

Only what is about to be read is waited for, and the block behind it is on its way meanwhile; results go back as they become
final. So the copies hide behind the network, which is slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..transports.device import Device, Mark
from .memory import HostMemory

BLOCK_BYTES = 1 << 22


class Staged:
    """An `Original` on a device. ``array``: flat bytes on ``device``, which may be read after ``ready``."""

    def __init__(self, device: Device, array: Any, ready: Mark):
        self.host = device.pinned(array.nbytes)
        self._device = device
        self._array = array
        self._ready: Mark | None = ready
        self.early = True
        self._stored = 0
        self.forget()

    def fetch(self, start: int, nbytes: int) -> None:
        if not nbytes:
            return
        first, last = start // BLOCK_BYTES, (start + nbytes - 1) // BLOCK_BYTES
        for block in range(first, min(last + 2, len(self._marks))):
            if self._marks[block] is None:
                self._begin(block)
        for block in range(first, last + 1):
            if not self._there[block]:
                self._device.reach(self._marks[block])
                self._there[block] = 1

    def fetch_into(self, target: Any, start: int) -> None:
        self.fetch(start, target.size)
        target[:] = self.host[start : start + target.size]

    def borders(self, limit: int) -> list[int]:
        return [*range(0, self.host.size, limit), self.host.size]

    def fetch_all(self) -> None:
        self.fetch(0, self._array.nbytes)

    def _begin(self, block: int) -> None:
        self._follow()
        part = slice(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
        self._device.copy(self.host[part], self._array[part])
        self._marks[block] = self._device.mark()

    def _follow(self) -> None:
        if self._ready is not None:
            self._device.follow(self._ready)
            self._ready = None

    def store(self, start: int, nbytes: int) -> None:
        self._follow()
        self._device.copy(self._array[start : start + nbytes], self.host[start : start + nbytes])
        self._stored += nbytes

    def forget(self) -> None:
        self._marks: list[Mark] = [None] * -(-self._array.nbytes // BLOCK_BYTES)  # of the blocks that are on their way
        self._there = bytearray(len(self._marks))

    def restart(self, ranks: Sequence[int]) -> None:
        self._stored = 0

    def deliver(self, start: int, source: Any) -> None:
        self.host[start : start + source.size] = source
        self.store(start, source.size)

    def settle(self) -> None:
        self._device.finish()

    def conclude(self, nbytes: int) -> None:
        self._follow()
        if self._stored != nbytes:
            self._device.copy(self._array[:nbytes], self.host[:nbytes])
        self._device.finish()


class PinnedMemory(HostMemory):
    """Host memory that a device reads and writes while others work."""

    def __init__(self, device: Device):
        self._device = device

    def empty(self, count: int, dtype: np.dtype[Any]) -> Any:
        return self._device.pinned(count * dtype.itemsize).view(dtype)
