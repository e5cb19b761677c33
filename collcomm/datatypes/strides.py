"""Layouts and datatypes from the shape and strides of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..hostviews import as_numpy
from ..tensors import is_tensor, visible
from .canonical import layout_of
from .constructors import Old, as_datatype, hvector
from .datatype import Datatype
from .hostcopies import Array, Bytes
from .packing import HostPacking


def of_strides(shape: Sequence[int], strides: Sequence[int], dtype: Old) -> Datatype:
    """The datatype of an array of ``shape`` whose neighbours are ``strides`` bytes apart, in C order from its first element."""
    if len(shape) != len(strides):
        raise ValueError(f"shape {tuple(shape)} and strides {tuple(strides)} must be equally long")
    datatype = as_datatype(dtype)
    for count, stride in zip(reversed(shape), reversed(strides), strict=True):
        datatype = hvector(count, 1, stride, datatype)
    return datatype


def of_array(array: Any) -> Datatype:
    """The datatype of an array of numpy, torch or cupy as it lies, on any device: its elements in C order, from its first."""
    if is_tensor(array):
        tensor, hidden = visible(array)
        strides = [stride * tensor.element_size() for stride in tensor.stride()]
        return of_strides(tuple(tensor.shape), strides, hidden or str(tensor.dtype).removeprefix("torch."))
    if not all(hasattr(array, name) for name in ("shape", "strides", "dtype")):
        array = as_numpy(array, "array")
    return of_strides(array.shape, array.strides, np.dtype(array.dtype))


def packing_of(array: Array) -> HostPacking:
    """All elements of ``array``, in C order."""
    layout = layout_of(array.shape, array.strides, array.itemsize)
    address = array.__array_interface__["data"][0]
    nbytes = layout.high - layout.low
    memory: Bytes = np.asarray(_Memory(array, address + layout.low, nbytes)) if nbytes else _NOTHING
    return HostPacking(layout, memory, -layout.low)


class _Memory:
    """Bytes from ``address`` on, which belong to ``array``."""

    __slots__ = ("__array_interface__", "array")

    def __init__(self, array: Array, address: int, nbytes: int):
        self.array = array
        self.__array_interface__: dict[str, Any] = {
            "data": (address, not array.flags.writeable),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


_NOTHING: Bytes = np.empty(0, np.uint8)
