"""Arrays on devices as arguments: worked on where they lie, or through a copy in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .arrays import HostArray
from .datatypes import Datatype, TypedBuffer
from .datatypes.devicepacking import packer_for
from .datatypes.layout import Run
from .datatypes.overlap import has_overlap
from .datatypes.packing import check_reach
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
        """Raises TypeError where there is nothing to be reduced elementwise."""

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

    def write_back(self, ranks: Sequence[int]) -> None:
        """Copy the elements to where the caller's non-contiguous array lies. ``ranks``: whose blocks have come."""
        if self.is_copy:
            self.device.assign(self._array, self._memory)
            self.device.finish()

    def like(self, flat: Any, shape: tuple[int, ...]) -> Any:
        """As many elements as ``flat`` has, from the first, in ``shape``, as the kind of array that the caller uses."""
        return self.device.present(self._memory[: flat.size].reshape(shape), self.value)

    def blank(self, shape: tuple[int, ...]) -> DeviceArray:
        """A new array of the same kind and dtype."""
        return DeviceArray(self.device.blank(self.value, shape, self.dtype), "out", self.device)


class DeviceItems(DeviceArray):
    """Items of a datatype in a buffer on a device: packed there when this is made, unpacked by `write_back`."""

    def __init__(self, items: TypedBuffer, what: str, device: Device):
        self.value: Any = items
        self.device = device
        self.original = None
        self._items = items
        buffer = device.accept(items.buffer, what)
        if buffer.copied:
            raise ValueError(
                f"{what}: the buffer of a datatype must be contiguous: its bytes are what the datatype counts"
            )
        self._same = buffer.dtype == items.dtype
        self._writable = buffer.writable
        self._strided = buffer.flat.view(np.uint8)
        self.dtype, self.shape, self.ready = items.dtype, items.shape, buffer.ready
        layout = items.layout
        check_reach(layout, items.offset, self._strided.nbytes)
        self.is_copy = layout.size > 0 and not isinstance(layout, Run)
        if self.is_copy:
            packed = device.empty(layout.size, np.dtype(np.uint8))
            device.follow(self.ready)
            device.run(
                lambda module, stream: packer_for(module, stream).pack(layout, self._strided, packed, items.offset)
            )
            self.ready = device.mark()
        else:
            packed = self._strided[items.offset + layout.low : items.offset + layout.high]
        self.flat = self._memory = packed.view(self.dtype)

    @property
    def whole(self) -> tuple[int, ...]:
        return self.shape if self.shape[0] != 1 else self.shape[1:]

    def require_elements(self, what: str) -> None:
        self._items.require_elements(what)

    def require_writable(self, what: str) -> None:
        super().require_writable(what)
        if has_overlap(self._items.layout):
            raise ValueError(f"{what} has some of its bytes twice, so that nothing can be received there")

    def write_back(self, ranks: Sequence[int]) -> None:
        if self.is_copy:
            items, packed = self._items, self._memory.view(np.uint8)
            self.device.run(
                lambda module, stream: packer_for(module, stream).unpack(
                    items.layout, packed, self._strided, items.offset
                )
            )
            self.device.finish()

    def like(self, flat: Any, shape: tuple[int, ...]) -> Any:
        array = self._memory[: flat.size].reshape(shape)
        return self.device.present(array, self._items.buffer) if self._same else array

    def blank(self, shape: tuple[int, ...]) -> DeviceArray:
        return DeviceArray(self.device.blank(self._items.buffer, shape, self.dtype), "out", self.device)


AnyArray = HostArray | DeviceArray


def is_on_device(value: Any) -> bool:
    """Whether an argument, array or typed buffer, lies on a device."""
    return type(value) is not np.ndarray and lies_on_device(value.buffer if type(value) is TypedBuffer else value)


def array_of(
    value: Any, what: str, device: Device | None, datatype: Datatype | None = None, items: int = 1
) -> AnyArray:
    """An array argument, or ``items`` of ``datatype`` in it. Raises TypeError for what is none, ValueError for a buffer that
    does not hold so many, UnsupportedTransport where there is no way to its memory."""
    if is_on_device(value):
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
    if type(value) is TypedBuffer:
        return DeviceItems(value, what, device)
    if datatype is None:
        return DeviceArray(value, what, device)
    array = DeviceItems(datatype.over(value, items), what, device)
    array.value = value
    return array
