"""Memory of a device: windows of it that other processes open, and what the engine asks of it. `cuda_ipc` is the one there is.

What is asked of a device is put on one queue of ours and done in order, behind what the caller had asked of it before he handed
over his array. A window's owner counts a signal only once the device has done all that came before it. So no queue ever waits
for what another process has still to do, and might not live to do; and what windows in host memory promise (`window`)
holds for these: whoever sees a count sees all that the owner wrote before.

Counts, and what tells the others how to open the memory (the *letter*), lie in a window in host memory.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..errors import CollcommError
from .base import Window

Memory = Any  # flat, on the device; sized, sliced, viewed as another dtype like numpy's
Mark = Any  # a point in the queue
HANDLE_BYTES = 64
LETTER_BYTES = 4096
_LETTER = struct.Struct("=IIQ64s64s")  # magic, process, bytes, name of the device, handle
_MAGIC = 0x64636C63


class DeviceFailed(CollcommError):
    """A device has reported an error, or does not get on with its work. Its memory cannot be relied on any more."""


class BadLetter(ValueError):
    """What a member has written into its window opens no memory."""


class Letter(NamedTuple):
    """How to open the memory of a window. ``handle`` is the device's affair; ``process``: of the owner."""

    process: int
    nbytes: int
    device: bytes
    handle: bytes

    def pack(self) -> bytes:
        return _LETTER.pack(_MAGIC, self.process, self.nbytes, self.device, self.handle)

    @classmethod
    def unpack(cls, data: bytes, nbytes: int) -> Letter:
        """Raises BadLetter, also where the memory is not of ``nbytes``."""
        magic, process, size, device, handle = _LETTER.unpack_from(data)
        if magic != _MAGIC or size != nbytes:
            raise BadLetter(f"no letter for a window of {nbytes} bytes")
        return cls(process, size, device.rstrip(b"\0"), handle)


class Accepted(NamedTuple):
    """A caller's array as the device sees it, of the device's own kind. ``flat``: its elements in one row, sharing the caller's
    memory unless ``copied``. ``ready``: the end of what the caller has asked for so far, after which it may be read."""

    array: Any
    flat: Memory
    dtype: np.dtype[Any]
    copied: bool
    writable: bool
    ready: Mark


class Device(Protocol):
    """``name``: what it is called. All may raise DeviceFailed."""

    name: str

    def accept(self, value: Any, what: str) -> Accepted:
        """Raises TypeError, UnsupportedTransport (it lies on another device)."""

    def blank(self, template: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A new array of the kind that ``template`` is."""

    def present(self, array: Any, template: Any) -> Any:
        """``array`` as the kind of array that ``template`` is, sharing memory."""

    def shares(self, one: Any, other: Any) -> bool:
        """Whether two arrays have memory in common."""

    def empty(self, count: int, dtype: np.dtype[Any]) -> Memory:
        """Memory of our own."""

    def concatenate(self, parts: Sequence[Memory]) -> Memory: ...

    def copy(self, target: Any, source: Any) -> None:
        """Between memory of the device, or with pinned memory."""

    def assign(self, target: Any, source: Any) -> None:
        """Elements of an array in one row to an array that has gaps."""

    def reduce(self, ufunc: np.ufunc, dtype: np.dtype[Any], parts: Sequence[Memory], target: Memory) -> None: ...

    def divide(self, target: Memory, divisor: int) -> None: ...

    def run(self, work: Callable[[Any, Any], None]) -> None:
        """Other work, put in the queue: ``work(module, stream)`` with the module whose arrays the device's are."""

    def follow(self, mark: Mark) -> None:
        """What is asked for from now on comes after ``mark``."""

    def mark(self) -> Mark:
        """The present end of the queue."""

    def reach(self, mark: Mark) -> None:
        """Wait until all before ``mark`` is done."""

    def finish(self) -> None:
        """Wait until all is done."""

    def pinned(self, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Host memory that is copied to and from while others work."""

    def allocate(self, nbytes: int) -> tuple[Memory, Letter]:
        """Memory that other processes may open; its letter. Ours until the last array of it has gone."""

    def open(self, letter: Letter) -> Memory:
        """Memory of another process, open until the last array of it has gone. Raises UnsupportedTransport saying why it
        cannot be had."""


def can_reduce_on_devices(dtype: np.dtype[Any]) -> bool:
    """All but the fp8 pair; the same at all peers."""
    return dtype.kind in "iub?fc" or dtype.name == "bfloat16"


class DeviceWindow:
    """``data`` on a device, with counts in the window ``host``."""

    def __init__(self, device: Device, host: Window, data: Memory):
        self.host = host
        self.words = host.words
        self.spins = host.spins
        self.data = data
        self._device = device

    def settle(self) -> None:
        self._device.finish()

    def signal(self) -> None:
        self._device.finish()
        self.host.signal()

    def sleep(self, count: int) -> None:
        self.host.sleep(count)

    def close(self) -> None:
        """The memory goes with the object: another thread may be about to use it."""


class OwnDeviceWindow(DeviceWindow):
    """``host`` has room for a letter."""

    def __init__(self, device: Device, host: Window, nbytes: int):
        data, letter = device.allocate(nbytes)
        text = letter.pack()
        host.data[: len(text)] = np.frombuffer(text, np.uint8)
        super().__init__(device, host, data)

    def close(self) -> None:
        self.host.close()


def open_window(device: Device, host: Window, nbytes: int) -> DeviceWindow:
    """The window of a member, of which ``host`` has come. Raises BadLetter, UnsupportedTransport."""
    if host.data.size < LETTER_BYTES:
        raise BadLetter(f"a window of {host.data.size} bytes has no room for a letter")
    return DeviceWindow(device, host, device.open(Letter.unpack(host.data[:LETTER_BYTES].tobytes(), nbytes)))
