"""Which calls of numpy move a layout's bytes.

A run of bytes is moved as one element: as a number of that width if there is one, else as a void of its length, which numpy
moves by memmove. So the innermost loop goes over runs, not over the bytes of one run, and no run is cut into smaller words.
(Cutting it into words, aligned or overlapping, was measured: hardly ever faster, and often half as fast.) Three forms are not
left to numpy's own order, each measured at two to three times its speed or more: a short innermost dimension, a transposition,
and pieces without order. Runs that are a little shorter than a number are packed as if they were one (`widened`). A second thread
was tried, too: it gains on an idle machine, and loses where other peers use its cores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .layout import Layout, Offsets, all_runs, strided_blocks
from .strided import Dim, StridedBlock
from .stridedcopy import Array, Bytes, StridedCopy
from .widened import WidenedCopy, widened

_WORDS = {size: np.dtype(name) for size, name in ((1, "u1"), (2, "u2"), (4, "u4"), (8, "u8"), (16, "c16"))}
MAX_VOID = 1 << 30  # bytes of an element; numpy counts them in 31 bits
COLUMNS = 3  # an innermost dimension so short is walked outside of the others
ROWS = 16  # where one of them has so many elements at least
LONG_BYTES = 128  # a run so long is worth a turn of the outer loop
LINE_BYTES = 64
TURNED, TURNED_ALIGNED = (
    512,
    32,
)  # columns of a transposition at a time; the second where they fall into few sets of the cache
ALIGNED_BYTES = 2048
GATHERED = 8  # boxes of few runs each from which on an index is faster than a call for each


class IndexedCopy(NamedTuple):
    """Elements of ``unit`` at byte ``starts`` of the strided memory and ``packed`` of the packed."""

    unit: np.dtype[Any]
    starts: Offsets
    packed: Offsets

    def pack(self, memory: Bytes, origin: int, packed: Bytes) -> None:
        self._anywhere(packed)[self.packed] = self._anywhere(memory)[self.starts + origin]

    def unpack(self, memory: Bytes, origin: int, packed: Bytes) -> None:
        self._anywhere(memory)[self.starts + origin] = self._anywhere(packed)[self.packed]

    def reduce(self, memory: Bytes, origin: int, packed: Bytes, ufunc: np.ufunc, dtype: np.dtype[Any]) -> None:
        there, where = self._anywhere(memory), self.starts + origin
        mine = there[where]
        elements = mine.view(dtype)
        ufunc(elements, self._anywhere(packed)[self.packed].view(dtype), out=elements)
        there[where] = mine

    def _anywhere(self, memory: Bytes) -> Array:
        """An element for each byte at which one can begin."""
        return np.ndarray((memory.size - self.unit.itemsize + 1,), self.unit, memory, 0, (1,))


HostCopy = StridedCopy | IndexedCopy | WidenedCopy


@lru_cache(maxsize=4096)
def host_copies(layout: Layout) -> tuple[HostCopy, ...]:
    """What to do, in any order."""
    blocks = strided_blocks(layout)
    if len(blocks) >= GATHERED and layout.runs < GATHERED * len(blocks):
        return tuple(_indexed(layout))
    return tuple(copy for block in blocks for copy in _strided(block))


def _indexed(layout: Layout) -> Iterator[IndexedCopy]:
    starts, sizes = all_runs(layout)
    packed = np.cumsum(sizes) - sizes
    for size in np.unique(sizes).tolist():
        chosen = sizes == size
        yield IndexedCopy(_unit(size), starts[chosen], packed[chosen])


def _strided(block: StridedBlock) -> Iterator[StridedCopy | WidenedCopy]:
    if block.nbytes > MAX_VOID:
        word = math.gcd(block.nbytes, max(_WORDS))  # holds whole elements, whatever they are
        block = block._replace(nbytes=word, dims=(*block.dims, Dim(block.nbytes // word, word, word)))
    whole = StridedCopy(
        _unit(block.nbytes),
        tuple(dim.count for dim in block.dims),
        block.start,
        tuple(dim.stride for dim in block.dims),
        block.packed,
        tuple(dim.packed for dim in block.dims),
    )
    parts = tuple(_ordered(whole))
    wide = None if _is_turned(whole) else widened(whole, parts)
    if wide is None:
        yield from parts
    else:
        yield wide


def _ordered(copy: StridedCopy) -> Iterator[StridedCopy]:
    """In parts where the order is not left to numpy."""
    short = _short_axis(copy)
    if short is not None:
        for column in _cut(copy, short, 1):
            yield from _ordered(column)
    elif _is_turned(copy):
        width = TURNED if copy.strides[-1] % ALIGNED_BYTES else TURNED_ALIGNED
        yield from _cut(copy, len(copy.shape) - 1, width)
    else:
        yield copy


def _short_axis(copy: StridedCopy) -> int | None:
    """An axis that numpy would walk innermost, when packing (the last) or unpacking (that of the smallest stride), although it
    has few elements."""
    if len(copy.shape) < 2 or copy.unit.itemsize > LONG_BYTES:
        return None
    axes = range(len(copy.shape))
    for axis in (axes[-1], min(axes, key=lambda axis: abs(copy.strides[axis]))):
        if copy.shape[axis] <= COLUMNS and max(copy.shape) >= ROWS:
            return axis
    return None


def _is_turned(copy: StridedCopy) -> bool:
    """Whether neighbours in the packed order lie in other lines, and their lines hold what comes later."""
    if len(copy.shape) < 2 or abs(copy.strides[-1]) < LINE_BYTES:
        return False
    return any(0 < abs(outer) < LINE_BYTES for outer in copy.strides[:-1])


def _cut(copy: StridedCopy, axis: int, width: int) -> Iterator[StridedCopy]:
    """Parts of ``width`` along an axis, which is dropped where that is 1."""
    count = copy.shape[axis]
    for first in range(0, count, width):
        shape, strides, packed_strides = list(copy.shape), list(copy.strides), list(copy.packed_strides)
        start, packed = copy.start + first * strides[axis], copy.packed + first * packed_strides[axis]
        shape[axis] = min(width, count - first)
        if shape[axis] == 1:
            del shape[axis], strides[axis], packed_strides[axis]
        yield StridedCopy(copy.unit, tuple(shape), start, tuple(strides), packed, tuple(packed_strides))


def _unit(nbytes: int) -> np.dtype[Any]:
    return _WORDS[nbytes] if nbytes in _WORDS else np.dtype(f"V{nbytes}")
