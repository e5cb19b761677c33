"""Items of a datatype in a buffer: what stands where an array could."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from ..hostviews import as_numpy
from .datatype import Datatype
from .hostcopies import Bytes
from .layout import Layout
from .packing import HostPacking


class TypedBuffer:
    """``count`` items of ``datatype`` in ``buffer``, the first with its origin ``offset`` bytes behind the buffer's start.

    ``buffer``: a contiguous array in any order of its axes, or anything with the buffer protocol; what its elements are makes no
    difference. Made by `Datatype.over`; as good as an array in every call of a communicator.
    """

    def __init__(self, datatype: Datatype, buffer: Any, count: int = 1, offset: int = 0):
        if count < 0:
            raise ValueError(f"count must be a number from 0, not {count}")
        self.datatype = datatype
        self.buffer = buffer
        self.count = int(count)
        self.offset = int(offset)

    @property
    def nbytes(self) -> int:
        """Bytes of all items, packed."""
        return self.count * self.datatype.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the packed elements."""
        return self.datatype.wire_dtype

    @property
    def layout(self) -> Layout:
        """Of all items."""
        return self.datatype.items(self.count)

    @property
    def shape(self) -> tuple[int, int]:
        """Items, and packed elements of each."""
        return self.count, self.datatype.size // self.dtype.itemsize

    def require_elements(self, what: str) -> None:
        """Raises TypeError where there is nothing to be combined elementwise."""
        if self.datatype.element is None:
            raise TypeError(f"{what}: {self.datatype} has elements of several dtypes, which cannot be reduced")

    @cached_property
    def packing(self) -> HostPacking:
        """For a buffer in host memory. Raises TypeError, ValueError (not contiguous, too small)."""
        return HostPacking(self.layout, bytes_of(self.buffer), self.offset)

    @property
    def writable(self) -> bool:
        return bool(self.packing.memory.flags.writeable)

    def pack(self, out: Any = None) -> Any:
        """The items in one row: ``out``, an array of as many bytes, or a new one; where the items lie in one row already, they
        themselves, without a copy."""
        if out is None:
            if self.packing.in_place is not None:
                return self.packing.in_place.view(self.dtype)
            out = np.empty(self.nbytes // self.dtype.itemsize, self.dtype)
        self.packing.pack(self._row(out))
        return out

    def unpack(self, data: Any, ufunc: np.ufunc | None = None) -> None:
        """Put ``data``, an array of as many bytes, where the items are; with ``ufunc``, combine it with what is there
        (``numpy.add``: add it), elementwise."""
        if not self.writable:
            raise ValueError("the buffer is read-only; give one that can be written")
        if self.packing.overlaps:
            raise ValueError(f"{self.datatype} names some bytes twice, so that nothing can be put there")
        if ufunc is None:
            self.packing.unpack(self._row(data))
        else:
            self.require_elements("unpack")
            self.packing.unpack_reduce(self._row(data), ufunc, self.dtype)

    def _row(self, data: Any) -> Bytes:
        row = bytes_of(data)
        if row.size != self.nbytes:
            raise ValueError(f"{self.count} items of {self.datatype} have {self.nbytes} bytes, the array {row.size}")
        return row

    def __repr__(self) -> str:
        return f"<TypedBuffer: {self.count} items of {self.datatype}>"


def bytes_of(buffer: Any) -> Bytes:
    """The memory of a contiguous array, in the order in which it lies. Raises TypeError, ValueError."""
    array = as_numpy(buffer, "the buffer of a datatype")
    if not array.flags.c_contiguous:
        array = array.transpose(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))
        if not array.flags.c_contiguous:
            raise ValueError("the buffer of a datatype must be contiguous: its bytes are what the datatype counts")
    return array.reshape(-1).view(np.uint8)
