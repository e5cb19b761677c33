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
COLUMNS = 3  # an innermost dimension so short is walked outside of the next one
ROWS = 16  # of which there are so many at least
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
    copy = StridedCopy(
        _unit(block.nbytes),
        tuple(dim.count for dim in block.dims),
        block.start,
        tuple(dim.stride for dim in block.dims),
        block.packed,
        tuple(dim.packed for dim in block.dims),
    )
    width = _at_once(copy)
    if not width:
        yield widened(copy) or copy
        return
    for first in range(0, copy.shape[-1], width):
        yield copy._replace(
            shape=(*copy.shape[:-1], min(width, copy.shape[-1] - first)),
            start=copy.start + first * copy.strides[-1],
            packed=copy.packed + first * copy.packed_strides[-1],
        )


def _at_once(copy: StridedCopy) -> int:
    """How much of the innermost dimension to take at a time, not to leave the order to numpy; else 0."""
    if len(copy.shape) < 2:
        return 0
    if copy.shape[-1] <= COLUMNS and copy.shape[-2] >= ROWS:
        return 1
    stride = abs(copy.strides[-1])
    if stride >= LINE_BYTES and any(0 < abs(outer) < LINE_BYTES for outer in copy.strides[:-1]):
        width = TURNED if stride % ALIGNED_BYTES else TURNED_ALIGNED
        return width if copy.shape[-1] > width else 0
    return 0


def _unit(nbytes: int) -> np.dtype[Any]:
    return _WORDS[nbytes] if nbytes in _WORDS else np.dtype(f"V{nbytes}")
