"""Packing and unpacking in host memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .hostcopies import Bytes, StridedCopy, host_copies
from .layout import Layout, Run


class HostPacking:
    """A layout in memory of this process, to be packed and unpacked as often as you like.

    ``origin``: the byte of ``memory`` that is the layout's origin. ``in_place``: the bytes where they are, if they lie in one
    row in their order. Raises ValueError where the layout reaches out of the memory.
    """

    __slots__ = ("_copies", "in_place", "layout", "memory", "origin")

    def __init__(self, layout: Layout, memory: Bytes, origin: int = 0):
        if layout.size and not (origin + layout.low >= 0 and origin + layout.high <= memory.size):
            raise ValueError(
                f"the datatype reaches from byte {origin + layout.low} to {origin + layout.high} of a buffer of "
                f"{memory.size} bytes; give a larger buffer, fewer items, or another offset"
            )
        self.layout, self.memory, self.origin = layout, memory, origin
        self.in_place: Bytes | None = None
        if isinstance(layout, Run) or not layout.size:
            self.in_place = memory[origin + layout.low : origin + layout.high]
        self._copies = host_copies(layout)

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
