"""What users hand in, as flat numpy arrays without a copy where memory allows, and results in the form they expect.

Anything with the buffer protocol, ``__array_interface__`` or DLPack on the host, CPU torch tensors, and typed buffers on these.
What does not lie in one row is packed by the operation, when and where it is needed.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .datatypes import Datatype, TypedBuffer
from .datatypes.layout import EMPTY, Run
from .datatypes.overlap import are_apart
from .datatypes.packing import ElementPacking, HostPacking
from .datatypes.strides import packing_of
from .engine import Strided
from .engine.reduction import is_supported
from .hostviews import Array, as_numpy
from .tensors import is_tensor, tensor_like

SMALL_BYTES = 1 << 12  # of an array with strides: to look for its layout would take longer than numpy's own copy


class HostArray:
    """An array argument. ``flat``: contiguous, one axis: the caller's memory where that lies in one row, else room for a copy,
    and ``original`` what it is to be a copy of. ``shape``: of a typed buffer (items, elements of each)."""

    __slots__ = ("_items", "_packing", "dtype", "flat", "original", "shape", "value", "writable")

    def __init__(self, value: Any, what: str = "array"):
        self.value = value
        self.original: Strided | None = None
        self._items: TypedBuffer | None = None
        if type(value) is TypedBuffer:
            self._items = value
            self.dtype, self.writable = value.dtype, value.writable
            self.shape: tuple[int, ...] = value.shape
            self._take(value.packing)
            return
        array = value if type(value) is np.ndarray else as_numpy(value, what)
        if not is_supported(array.dtype):
            raise TypeError(f"{what}: dtype {array.dtype} cannot be sent; convert it to a number type first")
        self.shape, self.dtype, self.writable = array.shape, array.dtype, array.flags.writeable
        if array.flags.c_contiguous:
            self.flat: Array = array if array.ndim == 1 else array.reshape(-1)
        elif array.nbytes <= SMALL_BYTES:
            self._take(ElementPacking(array))
        else:
            self._take(packing_of(array))

    @classmethod
    def of_items(cls, datatype: Datatype, buffer: Any, count: int, what: str) -> HostArray:
        """``count`` items of ``datatype`` in ``buffer``; a typed buffer is what it is."""
        if type(buffer) is TypedBuffer:
            return cls(buffer, what)
        array = cls(datatype.over(buffer, count), what)
        array.value = buffer
        return array

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape of a result of the same size."""
        return self.shape if self._items is None or self._items.count != 1 else self.shape[1:]

    def require_elements(self, what: str) -> None:
        """Raises TypeError where there is nothing to be reduced elementwise."""
        if self._items is not None:
            self._items.require_elements(what)

    @property
    def packing(self) -> HostPacking | ElementPacking:
        """All elements."""
        if self.original is not None:
            return self._packing
        return HostPacking(Run(0, self.flat.nbytes) if self.flat.size else EMPTY, self.flat.view(np.uint8))

    def _take(self, packing: HostPacking | ElementPacking) -> None:
        if packing.in_place is not None:
            self.flat = packing.in_place.view(self.dtype)
        else:
            self._packing = packing
            self.original = Strided((packing,))
            self.flat = self.original.host.view(self.dtype)

    def require_writable(self, what: str) -> None:
        if not self.writable:
            raise ValueError(f"{what} is read-only; give an array that can be written")
        if self.original is not None and self._packing.overlaps:
            raise ValueError(f"{what} has some of its bytes twice, so that nothing can be received there")

    def part_from(self, target: HostArray) -> None:
        """Make sure that what goes to ``target`` does not change this input while it is needed."""
        if not np.may_share_memory(self.span, target.span):  # by bounds
            return
        if target.original is not None:
            target.original.early = are_apart((self.packing.placed,), (target.packing.placed,))
        elif self.original is not None:
            self.original.fetch_all()
        else:
            self.flat = self.flat.copy()

    @property
    def span(self) -> Array:
        """The caller's memory, from the first byte to the last."""
        return self.flat if self.original is None else self._packing.span

    def fetch(self) -> None:
        """``flat`` holds the elements when this returns."""
        if self.original is not None:
            self.original.fetch_all()

    def put(self) -> None:
        """What ``flat`` holds goes to where the caller's elements lie."""
        if self.original is not None:
            self.original.restart(())
            self.original.conclude(self.flat.nbytes)

    def like(self, flat: Array, shape: tuple[int, ...]) -> Any:
        """``flat`` in ``shape``, as the kind of array that the caller uses."""
        array = flat.reshape(shape)
        return tensor_like(self.value, array, sys.modules["torch"].from_numpy) if is_tensor(self.value) else array
