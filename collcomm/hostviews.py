"""Arrays of others in host memory as numpy arrays, without a copy: the buffer protocol, ``__array_interface__``, DLPack, CPU
tensors of torch."""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import UnsupportedTransport
from .tensors import bits_of, is_tensor

Array = np.ndarray[Any, Any]


def lies_on_device(value: Any) -> bool:
    """Whether ``value`` is an array in the memory of a GPU, or of another device."""
    if is_tensor(value):
        return bool(value.device.type != "cpu")
    return hasattr(value, "__cuda_array_interface__")


def as_numpy(value: Any, what: str) -> Array:
    """``value`` as a numpy array on the same memory. Raises TypeError, UnsupportedTransport (it lies on a device)."""
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
    if value.is_conj() or value.is_neg() or str(value.layout) != "torch.strided":
        raise TypeError(
            "a tensor that is sparse, or stands for the conjugate of another, has no memory of its own to be sent"
        )
    if value.is_contiguous():
        return row_of_tensor(value).reshape(tuple(value.shape))
    strides = tuple(step * value.element_size() for step in value.stride())
    return _view(value, tuple(value.shape), strides)


def row_of_tensor(tensor: Any) -> Array:
    """The elements of a contiguous tensor in host memory, in one row. Raises TypeError for what cannot be sent."""
    return _view(tensor, (tensor.numel(),), None)


def _view(tensor: Any, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Array:
    bits, dtype = bits_of(tensor.dtype)
    array: Array = np.asarray(_Memory(tensor, bits.str, shape, strides)) if tensor.numel() else np.empty(shape, bits)
    return array if bits is dtype else array.view(dtype)


class _Memory:
    """A tensor's memory as numpy takes it. ``tensor.numpy()`` does the same, and forbids for good that the tensor's storage is
    resized, which FSDP does."""

    __slots__ = ("__array_interface__", "_tensor")

    def __init__(self, tensor: Any, typestr: str, shape: tuple[int, ...], strides: tuple[int, ...] | None):
        self._tensor = tensor
        address = tensor.data_ptr(), False
        self.__array_interface__ = {
            "version": 3,
            "data": address,
            "shape": shape,
            "strides": strides,
            "typestr": typestr,
        }


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
