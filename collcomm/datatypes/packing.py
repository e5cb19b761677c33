"""Packing and unpacking in host memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .canonical import layout_of
from .hostcopies import Array, Bytes, StridedCopy, host_copies
from .layout import Layout, Run, tiles
from .overlap import Placed, has_overlap
from .widened import WidenedCopy


def check_reach(layout: Layout, origin: int, nbytes: int) -> None:
    """Raises ValueError where a layout with its origin at byte ``origin`` reaches out of a memory of ``nbytes``."""
    if layout.size and not (origin + layout.low >= 0 and origin + layout.high <= nbytes):
        raise ValueError(
            f"the datatype reaches from byte {origin + layout.low} to {origin + layout.high} of a buffer of "
            f"{nbytes} bytes; give a larger buffer, fewer items, or another offset"
        )


class HostPacking:
    """A layout in memory of this process, to be packed and unpacked as often as you like.

    ``origin``: the byte of ``memory`` that is the layout's origin. ``in_place``: the bytes where they are, if they lie in one
    row in their order. Raises ValueError where the layout reaches out of the memory.
    """

    __slots__ = ("_address", "_copies", "in_place", "layout", "memory", "origin")

    def __init__(self, layout: Layout, memory: Bytes, origin: int = 0):
        check_reach(layout, origin, memory.size)
        self.layout, self.memory, self.origin = layout, memory, origin
        self.in_place: Bytes | None = None
        if isinstance(layout, Run) or not layout.size:
            self.in_place = memory[origin + layout.low : origin + layout.high]
        self._copies = host_copies(layout)
        self._address = -1

    @property
    def nbytes(self) -> int:
        """Packed."""
        return self.layout.size

    def tiles(self, limit: int) -> list[HostPacking]:
        """The same in pieces of about ``limit`` packed bytes, in their order."""
        if self.nbytes <= limit:
            return [self]
        return [HostPacking(layout, self.memory, self.origin + offset) for offset, layout in tiles(self.layout, limit)]

    @property
    def span(self) -> Bytes:
        """The memory from the first byte to the last."""
        return self.memory[self.origin + self.layout.low : self.origin + self.layout.high]

    @property
    def placed(self) -> Placed:
        """The address of the origin, and the layout."""
        if self._address < 0:
            self._address = _address(self.memory) + self.origin
        return self._address, self.layout

    @property
    def overlaps(self) -> bool:
        """Whether some byte is there twice. Raises ValueError where that cannot be found out."""
        return has_overlap(self.layout)

    def pack(self, target: Bytes) -> None:
        """To ``target``, of as many bytes as the layout has."""
        for copy in self._copies:
            copy.pack(self.memory, self.origin, target)

    def unpack(self, source: Bytes) -> None:
        """From ``source``, of as many bytes as the layout has."""
        for copy in self._copies:
            copy.unpack(self.memory, self.origin, source)

    def unpack_reduce(self, source: Bytes, ufunc: np.ufunc, dtype: np.dtype[Any]) -> None:
        """What lies there combined with ``source``, elements of ``dtype``, by ``ufunc``."""
        for copy in self._copies:
            copy.reduce(self.memory, self.origin, source, ufunc, dtype)

    def packer(self, target: Bytes) -> Callable[[], None]:
        """`pack` into ``target``, to be called many times: all that can be done beforehand is done."""
        if len(self._copies) == 1 and isinstance(self._copies[0], WidenedCopy):
            return self._copies[0].packer(self.memory, self.origin, target)
        if len(self._copies) != 1 or not isinstance(self._copies[0], StridedCopy):
            return partial(self.pack, target)
        theirs, ours = self._copies[0].views(self.memory, self.origin, target)
        return partial(ours.__setitem__, Ellipsis, theirs)

    def unpacker(self, source: Bytes) -> Callable[[], None]:
        """As `packer`, for `unpack`."""
        if len(self._copies) != 1 or not isinstance(self._copies[0], StridedCopy):
            return partial(self.unpack, source)
        theirs, ours = self._copies[0].views(self.memory, self.origin, source)
        return partial(theirs.__setitem__, Ellipsis, ours)


class ElementPacking:
    """As `HostPacking`, for a small array: numpy moves its elements, sooner than a layout would be found."""

    __slots__ = ("nbytes", "span")
    in_place: Bytes | None = None

    def __init__(self, array: Array):
        self.nbytes = array.nbytes
        self.span = array

    @property
    def placed(self) -> Placed:
        return _address(self.span), layout_of(self.span.shape, self.span.strides, self.span.itemsize)

    @property
    def overlaps(self) -> bool:
        return has_overlap(layout_of(self.span.shape, self.span.strides, self.span.itemsize))

    def tiles(self, limit: int) -> list[ElementPacking]:
        return [self]

    def pack(self, target: Bytes) -> None:
        target.view(self.span.dtype).reshape(self.span.shape)[...] = self.span

    def unpack(self, source: Bytes) -> None:
        self.span[...] = source.view(self.span.dtype).reshape(self.span.shape)


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
