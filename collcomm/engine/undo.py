"""What an operation in place has overwritten so far, so that an abort can put the caller's input back.

A range is saved just before it is first written, when it has just been read for the reduction and lies in cache: about
half of what a copy of the whole input beforehand would cost.
"""

from __future__ import annotations

from typing import Any

from .memory import HOST, Memory


class UndoLog:
    """``memory``: the bytes of the caller's array; ``spare``: as many bytes of scratch; ``place``: where both lie."""

    def __init__(self, memory: Any, spare: Any, place: Memory = HOST):
        self._copy = place.copy
        self._memory = memory
        self._spare = spare
        self._saved: dict[int, int] = {}  # bytes, by where they begin

    def save(self, start: int, nbytes: int) -> None:
        """Bytes ``start`` to ``start + nbytes`` are about to be overwritten. When that begins anew, since the stream died on
        which they were coming, the first time counts."""
        if self._saved.get(start, 0) >= nbytes:
            return
        self._copy(self._spare[start : start + nbytes], self._memory[start : start + nbytes])
        self._saved[start] = nbytes

    def save_all(self) -> None:
        self.save(0, self._memory.size)

    def roll_back(self) -> None:
        """Put back all that was saved."""
        for start, nbytes in self._saved.items():
            self._copy(self._memory[start : start + nbytes], self._spare[start : start + nbytes])
        self._saved.clear()
