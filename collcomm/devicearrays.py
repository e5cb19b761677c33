"""Arrays on devices as arguments: worked on where they lie, or through a copy in host memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from .arrays import HostArray
from .datatypes import Datatype, TypedBuffer
from .engine import Staged
from .engine.reduction import is_supported
from .errors import UnsupportedTransport
from .hostviews import lies_on_device
from .transports.cuda_ipc import find_device
from .transports.device import Device


class DeviceArray:
    """As `HostArray`. ``flat``: the elements in one row; in host memory once it is staged."""

    def __init__(self, value: Any, what: str, device: Device):
        self.value = value
        self.device = device
        self.original: Staged | None = None
        accepted = device.accept(value, what)
        if not is_supported(accepted.dtype):
            raise TypeError(f"{what}: dtype {accepted.dtype} cannot be sent; convert it to a number type first")
        self.dtype, self.shape = accepted.dtype, tuple(accepted.array.shape)
        self.is_copy, self.ready = accepted.copied, accepted.ready
        self._writable = accepted.writable
        self._array = accepted.array
        self.flat = self._memory = accepted.flat

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape of a result of the same size."""
        return self.shape

    def require_elements(self, what: str) -> None:
        """It has."""

    def stage(self) -> Staged:
        """From now on, ``flat`` is a copy in host memory, to be fetched and stored."""
        if self.original is None:
            self.original = Staged(self.device, self._memory.view(np.uint8), self.ready)
            self.flat = self.original.host.view(self.dtype)
        return self.original

    def require_writable(self, what: str) -> None:
        if not self._writable:
            raise ValueError(f"{what} is read-only; give an array that can be written")

    def part_from(self, target: DeviceArray) -> None:
        """Make sure that this input shares no memory with ``target``: copy it if it does."""
        if self.device.shares(self._memory, target._memory):
            copy = self.device.empty(self._memory.size, self.dtype)
            self.device.follow(self.ready)
            self.device.copy(copy, self._memory)
            self.device.finish()
            self.flat = self._memory = copy

    def write_back(self) -> None:
        """Copy the elements to where the caller's non-contiguous array lies."""
        if self.is_copy:
            self.device.assign(self._array, self._memory)
            self.device.finish()

    def like(self, flat: Any, shape: tuple[int, ...]) -> Any:
        """As many elements as ``flat`` has, from the first, in ``shape``, as the kind of array that the caller uses."""
        return self.device.present(self._memory[: flat.size].reshape(shape), self.value)

    def blank(self, shape: tuple[int, ...]) -> DeviceArray:
        """A new array of the same kind and dtype."""
        return DeviceArray(self.device.blank(self.value, shape, self.dtype), "out", self.device)


AnyArray = HostArray | DeviceArray


def array_of(
    value: Any, what: str, device: Device | None, datatype: Datatype | None = None, items: int = 1
) -> AnyArray:
    """An array argument, or ``items`` of ``datatype`` in it. Raises TypeError for what is none, ValueError for a buffer that
    does not hold so many, UnsupportedTransport where there is no way to its memory."""
    if type(value) is not np.ndarray and lies_on_device(value.buffer if type(value) is TypedBuffer else value):
        return _on_device(value, what, device, datatype, items)
    return HostArray(value, what) if datatype is None else HostArray.of_items(datatype, value, items, what)


def _on_device(value: Any, what: str, device: Device | None, datatype: Datatype | None, items: int) -> DeviceArray:
    if device is None:
        try:
            device = find_device()
        except UnsupportedTransport as error:
            raise UnsupportedTransport(
                f"{what} lies in device memory: {error}; or pass a copy in host memory"
            ) from None
    if datatype is not None or type(value) is TypedBuffer:
        raise UnsupportedTransport(f"{what} is a buffer of a datatype in device memory: pass a view with strides")
    return DeviceArray(value, what, device)
