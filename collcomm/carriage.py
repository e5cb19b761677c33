"""How the bytes of one message get from where they lie into a connection, and from there to where they belong.

In one row, without a copy (`Row`); run by run, without a copy, many runs in one call of the system (`Runs`: gather I/O); or
packed (`Packed`), a tile at a time, which goes on while it lies in cache. The two ends need not do it alike: the bytes between
them are the same.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from .datatypes.layout import Layout, Repeat, Run, all_runs
from .datatypes.packing import ElementPacking, HostPacking
from .engine import Original
from .hostviews import Array
from .transports.base import MAX_BUFFERS

TILE_BYTES = 1 << 17  # packed at once: both ends at work early, and what is packed still in L2 when it is sent
GATHERED_BYTES = 1 << 18  # for one call: what a connection does not take now, it is shown once more
REMEMBERED = 1 << 12  # runs of a layout that may be asked for again
_GATHERED = MAX_BUFFERS - 1  # beside a header

Views = Sequence[memoryview]


class Carriage(Protocol):
    """The bytes of a message at one of its ends."""

    def outgoing(self, start: int, limit: int) -> Views:
        """Of the ``limit`` bytes from ``start`` the first ones, one at least unless ``limit`` is 0, to be sent now."""

    def incoming(self, start: int, limit: int) -> Views:
        """Room for the first ones of these."""

    def arrived(self, start: int, nbytes: int) -> None:
        """Bytes are in the room that `incoming` has last given for ``start``."""

    def put(self, data: Array) -> None:
        """All bytes are those of ``data``."""


class Row:
    """A contiguous array."""

    __slots__ = ("_view",)

    def __init__(self, flat: Array):
        self._view = flat.view(np.uint8).data

    def outgoing(self, start: int, limit: int) -> Views:
        return (self._view[start : start + limit],)

    incoming = outgoing

    def arrived(self, start: int, nbytes: int) -> None:
        """They are where they belong."""

    def put(self, data: Array) -> None:
        self._view[:] = data.view(np.uint8).data


class Copied(Row):
    """An array elsewhere, with a copy in host memory: the caller has what arrived brought there."""

    __slots__ = ("_original",)

    def __init__(self, flat: Array, original: Original):
        super().__init__(flat)
        self._original = original

    def outgoing(self, start: int, limit: int) -> Views:
        self._original.fetch(start, limit)
        return (self._view[start : start + limit],)


class Runs:
    """The runs of a layout, where they lie."""

    __slots__ = ("_ends", "_packing", "_starts", "_stops", "_view")

    def __init__(self, packing: HostPacking):
        self._packing = packing
        self._view = packing.span.data
        layout = packing.layout
        self._starts, self._stops, self._ends = (_few_runs if layout.runs <= REMEMBERED else _runs)(layout)

    def outgoing(self, start: int, limit: int) -> Views:
        ends, view = self._ends, self._view
        end = min(start + min(limit, GATHERED_BYTES), ends[-1])
        first = bisect_right(ends, start)
        last = min(bisect_left(ends, end) + 1, first + _GATHERED)
        views = [view[one:other] for one, other in zip(self._starts[first:last], self._stops[first:last], strict=True)]
        if behind := len(views[0]) - (ends[first] - start):
            views[0] = views[0][behind:]
        if (over := ends[last - 1] - end) > 0:
            views[-1] = views[-1][:-over]
        return views

    incoming = outgoing

    def arrived(self, start: int, nbytes: int) -> None:
        """They are where they belong."""

    def put(self, data: Array) -> None:
        self._packing.unpack(data)


Numbers = Sequence[int]


def _runs(layout: Layout) -> tuple[Numbers, Numbers, Numbers]:
    """Of each run, where it starts and stops in the layout's span, and where it ends in the message."""
    if isinstance(layout, Repeat) and isinstance(layout.body, Run) and layout.stride:
        first, size, count, stride = layout.body.start - layout.low, layout.body.size, layout.count, layout.stride
        starts, stops = (range(edge, edge + count * stride, stride) for edge in (first, first + size))
        return starts, stops, range(size, count * size + 1, size)
    begin, sizes = all_runs(layout)
    begin = begin - layout.low
    return begin.tolist(), (begin + sizes).tolist(), np.cumsum(sizes).tolist()


_few_runs = lru_cache(maxsize=256)(_runs)


class Packed:
    """A layout, packed and unpacked tile by tile."""

    __slots__ = ("_ends", "_packing", "_there", "_tiles", "_view")

    def __init__(self, packing: HostPacking | ElementPacking):
        self._packing = packing
        self._tiles: Sequence[Any] = packing.tiles(TILE_BYTES)
        self._ends = list(accumulate(tile.nbytes for tile in self._tiles))
        self._view = np.empty(max(tile.nbytes for tile in self._tiles), np.uint8).data
        self._there = -1  # which tile was packed last

    def outgoing(self, start: int, limit: int) -> Views:
        number = bisect_right(self._ends, start)
        if number != self._there:
            tile = self._tiles[number]
            tile.pack(np.asarray(self._view)[: tile.nbytes])
            self._there = number
        return self.incoming(start, limit)

    def incoming(self, start: int, limit: int) -> Views:
        number = bisect_right(self._ends, start)
        first, end = self._ends[number] - self._tiles[number].nbytes, min(self._ends[number], start + limit)
        return (self._view[start - first : end - first],)

    def arrived(self, start: int, nbytes: int) -> None:
        number = bisect_right(self._ends, start)
        if start + nbytes == self._ends[number]:
            tile = self._tiles[number]
            tile.unpack(np.asarray(self._view)[: tile.nbytes])

    def put(self, data: Array) -> None:
        self._packing.unpack(data)
