"""What an operation in place has overwritten so far, so that an abort can put the caller's input back.

A range is saved just before it is first written, when it has just been read for the reduction and lies in cache: about
half of what a copy of the whole input beforehand would cost.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class UndoLog:
    """``memory``: the caller's array; ``spare``: as many bytes of scratch."""

    def __init__(self, memory: Bytes, spare: Bytes):
        self._memory = memory
        self._spare = spare
        self._saved: list[tuple[int, int]] = []

    def save(self, start: int, nbytes: int) -> None:
        """Bytes ``start`` to ``start + nbytes`` are about to be overwritten for the first time."""
        self._spare[start : start + nbytes] = self._memory[start : start + nbytes]
        self._saved.append((start, nbytes))

    def save_all(self) -> None:
        self.save(0, self._memory.size)

    def roll_back(self) -> None:
        """Put back all that was saved."""
        for start, nbytes in self._saved:
            self._memory[start : start + nbytes] = self._spare[start : start + nbytes]
        self._saved.clear()
