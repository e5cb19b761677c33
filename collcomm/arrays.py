"""What users hand in, as flat numpy arrays without a copy where memory allows, and results in the form they expect.

Anything with the buffer protocol, ``__array_interface__`` or DLPack on the host, and CPU torch tensors.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from .engine.reduction import is_supported
from .errors import UnsupportedTransport
from .tensors import is_tensor, tensor_like, visible

Array = np.ndarray[Any, Any]


class HostArray:
    """An array argument. ``flat``: contiguous, one axis, sharing the caller's memory where that is contiguous."""

    __slots__ = ("_original", "flat", "shape", "value")

    def __init__(self, value: Any, what: str = "array"):
        self.value = value
        array = value if type(value) is np.ndarray else _as_numpy(value, what)
        if not is_supported(array.dtype):
            raise TypeError(f"{what}: dtype {array.dtype} cannot be sent; convert it to a number type first")
        self.shape = array.shape
        self._original = array
        self.flat: Array = array
        if not array.flags.c_contiguous:
            self.flat = np.ascontiguousarray(array).reshape(-1)
        elif array.ndim != 1:
            self.flat = array.reshape(-1)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._original.dtype

    @property
    def is_copy(self) -> bool:
        return not self._original.flags.c_contiguous

    def require_writable(self, what: str) -> None:
        if not self._original.flags.writeable:
            raise ValueError(f"{what} is read-only; give an array that can be written")

    def part_from(self, target: HostArray) -> None:
        """Make sure that this input shares no memory with ``target``: copy it if it does."""
        if np.may_share_memory(self.flat, target.flat):  # by bounds, which is exact: both are contiguous
            self.flat = self.flat.copy()

    def write_back(self) -> None:
        """Copy ``flat`` to where the caller's non-contiguous array lies."""
        if self.is_copy:
            self._original[...] = self.flat.reshape(self.shape)

    def like(self, flat: Array, shape: tuple[int, ...]) -> Any:
        """``flat`` in ``shape``, as the kind of array that the caller uses."""
        array = flat.reshape(shape)
        return tensor_like(self.value, array, sys.modules["torch"].from_numpy) if is_tensor(self.value) else array


def lies_on_device(value: Any) -> bool:
    """Whether ``value`` is an array in the memory of a GPU, or of another device."""
    if is_tensor(value):
        return bool(value.device.type != "cpu")
    return hasattr(value, "__cuda_array_interface__")


def _as_numpy(value: Any, what: str) -> Array:
    if lies_on_device(value):
        raise UnsupportedTransport(f"{what} lies in device memory, and is wanted in host memory: pass a copy")
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    if isinstance(value, np.generic):
        return np.asarray(value)
    if is_tensor(value):
        return _from_tensor(value)
    for accept in (_from_interface, _from_dlpack, _from_buffer):
        array = accept(value)
        if array is not None:
            return array
    raise TypeError(f"{what} must be an array (numpy, torch, buffer, DLPack), not {type(value).__name__}")


def _from_tensor(value: Any) -> Array:
    tensor, dtype = visible(value)
    array: Array = tensor.numpy()
    return array if dtype is None else array.view(dtype)


def _from_interface(value: Any) -> Array | None:
    return np.asarray(value) if hasattr(value, "__array_interface__") else None


def _from_dlpack(value: Any) -> Array | None:
    if not hasattr(value, "__dlpack__"):
        return None
    try:
        array: Array = np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError):
        return None
    return array


def _from_buffer(value: Any) -> Array | None:
    try:
        view = memoryview(value)
    except TypeError:
        return None
    try:
        return np.asarray(view)
    except (TypeError, ValueError):
        return None
