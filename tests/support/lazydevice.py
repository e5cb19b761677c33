"""A device without hardware: its memory is host memory that processes share, its queue is a thread that takes its time.

What is asked of it happens later, in order, as on a GPU; so who reads before he has waited reads the wrong bytes. `LazyArray` is
what its users hold; their own work on such arrays is done at once, unless they `delay` it.
"""

from __future__ import annotations

import mmap
import os
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from collcomm.transports.device import Accepted, DeviceFailed, Letter

from collcomm.errors import UnsupportedTransport

WAIT_SECONDS = 30.0
PAUSE_SECONDS = 0.0005  # at most, before a piece of work


class LazyArray(np.ndarray):  # type: ignore[type-arg]
    """An array in the memory of a `LazyDevice`."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"data": (self.ctypes.data, not self.flags.writeable), "shape": self.shape, "version": 3}


def lazy(array: Any) -> LazyArray:
    there = np.array(array).view(LazyArray)
    there.flags.writeable = getattr(array, "flags", there.flags).writeable
    return there


class LazyDevice:
    """``seed``: of its pauses. ``broken``: every further request fails."""

    name = "lazy:0"

    def __init__(self, seed: int = 0):
        self.broken = False
        self.opened: list[int] = []  # bytes of the windows of others that are open
        self.caller: threading.Event | None = None  # what a caller's array waits for
        self._random = random.Random(seed)
        self._work: queue.Queue[Callable[[], Any] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, name="collcomm-lazy-device", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            if self._random.random() < 0.5:
                time.sleep(self._random.random() * PAUSE_SECONDS)
            try:
                work()
            except BaseException:
                self.broken = True
                raise

    def _ask(self, work: Callable[[], Any]) -> None:
        if self.broken:
            raise DeviceFailed("the device lazy:0 is broken")
        self._work.put(work)

    def end(self) -> None:
        self._work.put(None)
        self._thread.join(WAIT_SECONDS)

    # -- arrays ---------------------------------------------------------------------------------------------------------

    def accept(self, value: Any, what: str) -> Accepted:
        array = value.view(np.ndarray)
        ready = self.caller or threading.Event()
        if self.caller is None:
            ready.set()
        copied = not array.flags.c_contiguous
        return Accepted(
            array, np.ascontiguousarray(array).reshape(-1), array.dtype, copied, array.flags.writeable, ready
        )

    def blank(self, template: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return np.empty(shape, dtype).view(LazyArray)

    def present(self, array: Any, template: Any) -> Any:
        return array.view(LazyArray)

    def shares(self, one: Any, other: Any) -> bool:
        return bool(np.may_share_memory(one, other))

    def empty(self, count: int, dtype: np.dtype[Any]) -> Any:
        return np.empty(count, dtype)

    def concatenate(self, parts: Sequence[Any]) -> Any:
        whole = np.empty(sum(part.size for part in parts), parts[0].dtype)
        self._ask(lambda: np.concatenate(parts, out=whole))
        return whole

    # -- work -----------------------------------------------------------------------------------------------------------

    def copy(self, target: Any, source: Any) -> None:
        assert target.nbytes == source.nbytes

        def work() -> None:
            target[:] = source

        self._ask(work)

    def assign(self, target: Any, source: Any) -> None:
        def work() -> None:
            target[...] = source.reshape(target.shape)

        self._ask(work)

    def reduce(self, ufunc: np.ufunc, dtype: np.dtype[Any], parts: Sequence[Any], target: Any) -> None:
        def work() -> None:
            result = parts[0].view(dtype)
            for part in parts[1:]:
                result = ufunc(result, part.view(dtype))
            target.view(dtype)[:] = result

        self._ask(work)

    def divide(self, target: Any, divisor: int) -> None:
        self._ask(lambda: np.divide(target, target.dtype.type(divisor), out=target))

    def run(self, work: Callable[[Any, Any], None]) -> None:
        self._ask(lambda: work(np, None))

    # -- order ----------------------------------------------------------------------------------------------------------

    def follow(self, mark: threading.Event) -> None:
        self._ask(lambda: mark.wait(WAIT_SECONDS))

    def mark(self) -> threading.Event:
        done = threading.Event()
        self._ask(done.set)
        return done

    def reach(self, mark: threading.Event) -> None:
        if not mark.wait(WAIT_SECONDS):
            raise DeviceFailed("the device lazy:0 hangs")

    def finish(self) -> None:
        self.reach(self.mark())

    def pinned(self, nbytes: int) -> Any:
        return np.full(nbytes, 0xAA, np.uint8)  # who reads what was not fetched shall see it

    # -- windows --------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> tuple[Any, Letter]:
        descriptor = os.memfd_create("lazy-device")
        os.ftruncate(descriptor, nbytes)
        memory = np.frombuffer(mmap.mmap(descriptor, nbytes), np.uint8)
        weakref.finalize(memory, os.close, descriptor)
        return memory, Letter(os.getpid(), nbytes, b"lazy:0", str(descriptor).encode())

    def open(self, letter: Letter) -> Any:
        path = f"/proc/{letter.process}/fd/{letter.handle.rstrip(bytes(1)).decode()}"
        try:
            descriptor = os.open(path, os.O_RDWR)
        except OSError as error:
            raise UnsupportedTransport(f"memory of process {letter.process} cannot be opened: {error}") from None
        try:
            memory = np.frombuffer(mmap.mmap(descriptor, letter.nbytes), np.uint8)
        finally:
            os.close(descriptor)
        self.opened.append(letter.nbytes)
        weakref.finalize(memory, self.opened.remove, letter.nbytes)
        return memory
