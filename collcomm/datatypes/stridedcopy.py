"""A copy of numpy between a box of equal runs in strided memory and the packed one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class StridedCopy(NamedTuple):
    """Elements of ``unit``, ``shape`` of them, from byte ``start`` of the strided memory, to byte ``packed`` of the packed."""

    unit: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...]
    packed: int
    packed_strides: tuple[int, ...]

    def views(self, memory: Bytes, origin: int, packed: Bytes) -> tuple[Array, Array]:
        """The elements where they lie, and where they are packed."""
        return (
            np.ndarray(self.shape, self.unit, memory, origin + self.start, self.strides),
            np.ndarray(self.shape, self.unit, packed, self.packed, self.packed_strides),
        )

    def pack(self, memory: Bytes, origin: int, packed: Bytes) -> None:
        theirs, ours = self.views(memory, origin, packed)
        ours[...] = theirs

    def unpack(self, memory: Bytes, origin: int, packed: Bytes) -> None:
        theirs, ours = self.views(memory, origin, packed)
        theirs[...] = ours

    def reduce(self, memory: Bytes, origin: int, packed: Bytes, ufunc: np.ufunc, dtype: np.dtype[Any]) -> None:
        theirs, ours = self._elements(dtype).views(memory, origin, packed)
        ufunc(theirs, ours, out=theirs)

    def _elements(self, dtype: np.dtype[Any]) -> StridedCopy:
        """The same bytes as elements of ``dtype``, of which a run has a whole number."""
        size, number = dtype.itemsize, self.unit.itemsize // dtype.itemsize
        if number == 1:
            return self._replace(unit=dtype)
        shape, strides = (*self.shape, number), (*self.strides, size)
        return StridedCopy(dtype, shape, self.start, strides, self.packed, (*self.packed_strides, size))
