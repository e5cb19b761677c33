"""One array for each rank, as one row of bytes: what an all_to_all with a layout of its own for each peer sends and receives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import HostArray
from .datatypes import TypedBuffer
from .datatypes.layout import EMPTY
from .datatypes.overlap import are_apart
from .datatypes.packing import ElementPacking, HostPacking
from .engine import Strided
from .hostviews import Array

_BYTE = np.dtype(np.uint8)
_NOTHING = HostPacking(EMPTY, np.empty(0, np.uint8))


class HostParts:
    """As `HostArray`, of ``values``: by rank an array, a typed buffer, or None for nothing."""

    dtype = _BYTE

    def __init__(self, values: Sequence[Any], what: str, size: int):
        if len(values) != size:
            raise ValueError(f"{what} has {len(values)} arrays; give one for each of the {size} ranks, or None")
        self.value = values
        self._what = what
        self._writable = True
        self._packings = [self._packing(value, f"{what}[{rank}]") for rank, value in enumerate(values)]
        self.sizes = tuple(packing.nbytes for packing in self._packings)
        self.original = Strided(self._packings, by_rank=True)
        self.flat = self.original.host
        self.shape = self.flat.shape

    def _packing(self, value: Any, what: str) -> HostPacking | ElementPacking:
        if value is None:
            return _NOTHING
        if type(value) is TypedBuffer:
            self._writable &= value.writable
            return value.packing
        array = HostArray(value, what)
        self._writable &= array.writable
        return array.packing

    def require_writable(self, what: str) -> None:
        if not self._writable:
            raise ValueError(f"{what} holds an array that is read-only; give arrays that can be written")
        if any(packing.overlaps for packing in self._packings):
            raise ValueError(
                f"{what} holds an array with some of its bytes twice, so that nothing can be received there"
            )

    def part_from(self, target: HostParts) -> None:
        """Make sure that what goes to ``target`` does not change this input while it is needed."""
        ones, others = ([p.placed for p in parts._packings if p.nbytes] for parts in (self, target))
        target.original.early = are_apart(ones, others)

    def like(self, flat: Array, shape: tuple[int, ...]) -> Any:
        """What came of survivors only: the arrays, of which those of the dead hold nothing of use."""
        return self.value
