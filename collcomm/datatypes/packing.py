"""Packing in host memory: numpy does it, in as few calls as the layout allows.

A run of bytes is moved as one element: as a number of that width if there is one, else as a void of its length, which numpy
moves by memmove. So the innermost loop goes over runs, not over the bytes of one run, and no run is cut into smaller words.
(Cutting it, say 12 bytes into 8 and 4, was measured: twice as slow for runs of 24 bytes and more, never faster.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .layout import Layout, Run, strided_blocks
from .strided import Dim, StridedBlock

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_WORDS = {size: np.dtype(name) for size, name in ((1, "u1"), (2, "u2"), (4, "u4"), (8, "u8"), (16, "c16"))}

MAX_VOID = 1 << 30  # bytes of an element; numpy counts them in 31 bits
TILE_BYTES = 1 << 18  # packed bytes that are moved before the next field of the same memory: what stays in L2 meanwhile
GATHERED = 8  # blocks of one run each, and of one length, from which on an index is faster than a call each
COLUMNS = 4  # an innermost dimension so short is walked outside of the next one


class HostCopy(NamedTuple):
    """One call of numpy: elements of ``unit``, ``shape`` of them, from byte ``start`` on, to byte ``packed``."""

    unit: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...]
    packed: int
    packed_strides: tuple[int, ...]

    def strided(self, memory: Bytes, origin: int) -> Array:
        return np.ndarray(self.shape, self.unit, memory, origin + self.start, self.strides)

    def contiguous(self, memory: Bytes) -> Array:
        return np.ndarray(self.shape, self.unit, memory, self.packed, self.packed_strides)


class HostPacking:
    """A layout in memory of this process, to be packed and unpacked as often as you like.

    ``origin``: the byte of ``memory`` that is the layout's origin. Raises ValueError where the layout reaches out of the memory.
    """

    __slots__ = ("_copies", "_views", "layout", "memory", "origin")

    def __init__(self, layout: Layout, memory: Bytes, origin: int = 0):
        if layout.size and not (origin + layout.low >= 0 and origin + layout.high <= memory.size):
            raise ValueError(
                f"the datatype reaches from byte {origin + layout.low} to {origin + layout.high} of a buffer of "
                f"{memory.size} bytes; give a larger buffer, fewer items, or another offset"
            )
        self.layout, self.memory, self.origin = layout, memory, origin
        self._copies = host_copies(layout)
        self._views: list[Array] | None = None

    @property
    def in_place(self) -> Bytes | None:
        """The bytes where they are, if they lie in one row in their order."""
        layout = self.layout
        if isinstance(layout, Run):
            return self.memory[self.origin + layout.low : self.origin + layout.high]
        return None if layout.size else self.memory[:0]

    def pack(self, target: Bytes) -> None:
        """To ``target``, of as many bytes as the layout has."""
        for copy, strided in zip(self._copies, self._strided(), strict=True):
            copy.contiguous(target)[...] = strided

    def unpack(self, source: Bytes) -> None:
        """From ``source``, of as many bytes as the layout has."""
        for copy, strided in zip(self._copies, self._strided(), strict=True):
            strided[...] = copy.contiguous(source)

    def unpack_reduce(self, source: Bytes, ufunc: np.ufunc, dtype: np.dtype[Any]) -> None:
        """What lies there combined with ``source``, elements of ``dtype``, by ``ufunc``."""
        for copy in self._copies:
            elements = _as_elements(copy, dtype)
            mine = elements.strided(self.memory, self.origin)
            ufunc(mine, elements.contiguous(source), out=mine)

    def _strided(self) -> list[Array]:
        if self._views is None:
            self._views = [copy.strided(self.memory, self.origin) for copy in self._copies]
        return self._views


def _as_elements(copy: HostCopy, dtype: np.dtype[Any]) -> HostCopy:
    if copy.unit.itemsize == dtype.itemsize:
        return copy._replace(unit=dtype)
    size = dtype.itemsize
    return HostCopy(
        dtype,
        (*copy.shape, copy.unit.itemsize // size),
        copy.start,
        (*copy.strides, size),
        copy.packed,
        (*copy.packed_strides, size),
    )


@lru_cache(maxsize=1024)
def host_copies(layout: Layout) -> tuple[HostCopy, ...]:
    return tuple(_copy(block) for block in strided_blocks(layout))


def _copy(block: StridedBlock) -> HostCopy:
    if block.nbytes > MAX_VOID:
        block = block._replace(nbytes=1, dims=(*block.dims, Dim(block.nbytes, 1, 1)))
    return HostCopy(
        _unit(block.nbytes),
        tuple(dim.count for dim in block.dims),
        block.start,
        tuple(dim.stride for dim in block.dims),
        block.packed,
        tuple(dim.packed for dim in block.dims),
    )


def _unit(nbytes: int) -> np.dtype[Any]:
    return _WORDS[nbytes] if nbytes in _WORDS else np.dtype(f"V{nbytes}")
