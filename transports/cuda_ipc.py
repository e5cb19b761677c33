"""CUDA-IPC: memory of one process's GPU in the address space of others of its host, through cupy.

Windows are plain allocations of ours (cudaMalloc), since what a framework's pool hands out is a part of something larger, and
pools may hand it out again. CUDA leaves open what becomes of memory that is freed while others have it open: so ours is never
freed while its process lives, but kept for the next communicator. Of a process that dies the drivers we know of keep the memory
for those who have it open; nothing but attempts that are about to be thrown away reads it then.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import UnsupportedTransport
from ..tensors import is_tensor, tensor_like, visible
from .device import Accepted, DeviceFailed, Letter, Mark, Memory

WORK_SECONDS = 600.0  # for all that a device was given, also by the caller; one that takes longer hangs
SPIN_SECONDS = 200e-6  # looks without a pause; a small operation ends sooner
PAUSE_SECONDS = 50e-6
INSTALL = "pip install 'collcomm[cuda12]' or 'collcomm[cuda13]', whichever the driver serves"
_DONE, _NO_MEMORY, _NOT_READY = 0, 2, 600  # codes of CUDA
_FUSED = {"add": "+", "multiply": "*"}
POOLED_BYTES = 1 << 28  # pinned memory up to this size is kept for the next operation
_making = threading.Lock()
_allocated: dict[bytes, int] = {}  # address by handle: a process cannot open its own
_spare: dict[tuple[int, int], list[tuple[int, bytes]]] = {}  # by device and size: windows that nobody uses


@lru_cache(maxsize=1)
def _cupy() -> Any:
    """cupy, where it finds a GPU. Raises UnsupportedTransport saying what is missing."""
    if importlib.util.find_spec("cupy") is None:
        raise UnsupportedTransport(f"cupy is not installed: {INSTALL}")
    try:
        import cupy
    except ImportError as error:
        raise UnsupportedTransport(f"cupy cannot be imported: {error}") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UnsupportedTransport(f"cupy {cupy.__version__} finds no GPU: {error}") from None
    if not count:
        raise UnsupportedTransport(f"cupy {cupy.__version__} finds no GPU")
    return cupy


def find_device() -> CudaDevice:
    """The GPU that is current in this thread. Raises UnsupportedTransport saying what is missing."""
    with _making:
        cupy = _cupy()
        return _device(cupy, int(cupy.cuda.runtime.getDevice()))


@lru_cache(maxsize=64)
def _device(cupy: Any, number: int) -> CudaDevice:
    return CudaDevice(cupy, number)


class CudaDevice:
    """One GPU; memory is cupy's arrays. Nothing is asked of the driver before it is needed."""

    def __init__(self, cupy: Any, number: int):
        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self.number = number
        self.name = f"cuda:{self.number}"
        self._device = cupy.cuda.Device(self.number)
        self._made_stream: Any = None
        self._failure: DeviceFailed | None = None

    @property
    def _stream(self) -> Any:
        if self._made_stream is None:
            with _making, self._device:
                if self._made_stream is None:
                    self._made_stream = self._cupy.cuda.Stream(non_blocking=True)
        return self._made_stream

    @contextmanager
    def _queue(self) -> Iterator[None]:
        """What cupy does inside goes to our stream; errors of CUDA become DeviceFailed."""
        with self._reported(), self._device, self._stream:
            yield

    @contextmanager
    def _reported(self) -> Iterator[None]:
        if self._failure is not None:
            raise self._failure  # such errors stay
        try:
            yield
        except (self._runtime.CUDARuntimeError, self._cupy.cuda.driver.CUDADriverError) as error:
            self._failure = DeviceFailed(f"the GPU {self.name} reports {error}; start this process again")
            raise self._failure from None

    # -- arrays of the caller -------------------------------------------------------------------------------------------

    def accept(self, value: Any, what: str) -> Accepted:
        with self._reported(), self._device:
            given, writable, dtype = value, True, None
            number = self._number_of(value, what)
            if number != self.number:
                raise UnsupportedTransport(
                    f"{what} lies on cuda:{number}, and this communicator works on {self.name}, which was the current "
                    f"device when join() was called"
                )
            if is_tensor(value):
                if value.is_conj() or value.is_neg():
                    raise TypeError(f"{what} is conjugated or negated lazily: pass resolve_conj().resolve_neg()")
                given, dtype = visible(value)
                ready = sys.modules["torch"].cuda.current_stream(value.device).record_event
            else:
                ready = self._cupy.cuda.get_current_stream().record
                if not isinstance(value, self._cupy.ndarray):
                    writable = not value.__cuda_array_interface__["data"][1]
            try:
                array = self._cupy.asarray(given)  # waits for the stream that the object names, if it does
            except (KeyError, AttributeError):
                raise TypeError(
                    f"{what}: dtype {value.dtype} cannot be sent; convert it to a number type first"
                ) from None
            dtype = np.dtype(array.dtype) if dtype is None else dtype
            array = array.view(_storage(dtype))
            copied = not array.flags.c_contiguous
            flat = self._cupy.asarray(given.contiguous()).view(array.dtype) if copied and given is not value else array
            flat = self._cupy.ascontiguousarray(flat).reshape(-1)
            return Accepted(array, flat, dtype, copied, writable, ready())

    def _number_of(self, value: Any, what: str) -> int:
        if is_tensor(value):
            if value.device.type != "cuda":
                raise UnsupportedTransport(
                    f"{what} lies on {value.device}, which is no GPU of CUDA: pass a copy in host memory"
                )
            return int(value.device.index)
        if isinstance(value, self._cupy.ndarray):
            return int(value.data.device_id)
        address = value.__cuda_array_interface__["data"][0]
        return int(self._runtime.pointerGetAttributes(address).device) if address else self.number

    def blank(self, template: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Of the pool of its framework, on the stream that is current there."""
        if is_tensor(template):
            return template.new_empty(shape, dtype=getattr(sys.modules["torch"], dtype.name))
        with self._reported(), self._device:
            return self._cupy.empty(shape, dtype)

    def present(self, array: Any, template: Any) -> Any:
        if not is_tensor(template):
            return array
        return tensor_like(template, array, lambda found: sys.modules["torch"].as_tensor(found, device=template.device))

    def shares(self, one: Any, other: Any) -> bool:
        return bool(self._cupy.may_share_memory(one, other))

    # -- memory ---------------------------------------------------------------------------------------------------------

    def empty(self, count: int, dtype: np.dtype[Any]) -> Memory:
        """No part of a pool, which would have to know of our stream."""
        with self._reported(), self._device:
            nbytes = count * dtype.itemsize
            memory = self._taken(nbytes, lambda: self._cupy.cuda.Memory(nbytes))
            return self._cupy.ndarray((count,), _storage(dtype), self._cupy.cuda.MemoryPointer(memory, 0))

    def _taken(self, nbytes: int, take: Callable[[], Any]) -> Any:
        """``nbytes`` from the driver, to which the frameworks give back what they do not use if need be. Raises DeviceFailed."""
        for last in (False, True):
            try:
                return take()
            except self._runtime.CUDARuntimeError as error:
                if error.status != _NO_MEMORY:
                    raise
                if last:
                    raise DeviceFailed(f"the GPU {self.name} has no {nbytes} bytes left") from None
            self._cupy.get_default_memory_pool().free_all_blocks()
            if "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized():
                sys.modules["torch"].cuda.empty_cache()

    def concatenate(self, parts: Sequence[Memory]) -> Memory:
        whole = self.empty(sum(part.size for part in parts), np.dtype(parts[0].dtype))
        start = 0
        for part in parts:
            self.copy(whole[start : start + part.size], part)
            start += part.size
        return whole

    def copy(self, target: Any, source: Any) -> None:
        if target.nbytes:
            with self._queue():
                self._runtime.memcpyAsync(
                    _address(target), _address(source), target.nbytes, self._runtime.memcpyDefault, self._stream.ptr
                )

    def assign(self, target: Any, source: Any) -> None:
        with self._queue():
            target[...] = source.reshape(target.shape)

    def pinned(self, nbytes: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        cuda = self._cupy.cuda
        with self._reported(), self._device:
            if nbytes <= POOLED_BYTES:
                memory = cuda.alloc_pinned_memory(max(1, nbytes))
            else:
                memory = cuda.PinnedMemoryPointer(cuda.PinnedMemory(nbytes), 0)
            return np.frombuffer(memory, np.uint8, nbytes)

    # -- reducing -------------------------------------------------------------------------------------------------------

    def reduce(self, ufunc: np.ufunc, dtype: np.dtype[Any], parts: Sequence[Memory], target: Memory) -> None:
        """Sums and products in one pass where that rounds as two by two does; others two by two."""
        with self._queue():
            typed = [part.view(dtype) for part in parts]
            result = target.view(dtype)
            if len(parts) > 2 and ufunc.__name__ in _FUSED and dtype.kind in "iufc" and dtype != np.float16:
                _fused_kernel(self._cupy, _FUSED[ufunc.__name__], len(parts))(*typed, result)
                return
            combine = getattr(self._cupy, ufunc.__name__)
            combine(typed[0], typed[1], out=result)
            for part in typed[2:]:
                combine(result, part, out=result)

    def divide(self, target: Memory, divisor: int) -> None:
        with self._queue():
            self._cupy.divide(target, target.dtype.type(divisor), out=target)

    def run(self, work: Callable[[Any, Any], None]) -> None:
        with self._queue():
            try:
                work(self._cupy, self._stream)
            except self._cupy.cuda.compiler.CompileException as error:
                self._failure = DeviceFailed(f"the GPU {self.name} has no kernel for this: {error}")
                raise self._failure from None

    # -- order ----------------------------------------------------------------------------------------------------------

    def follow(self, mark: Mark) -> None:
        with self._reported(), self._device:
            event = mark.cuda_event if hasattr(mark, "cuda_event") else mark.ptr
            self._runtime.streamWaitEvent(self._stream.ptr, event)

    def mark(self) -> Mark:
        with self._reported(), self._device:
            event = self._cupy.cuda.Event(disable_timing=True)
            event.record(self._stream)
            return event

    def reach(self, mark: Mark) -> None:
        self._await(lambda: int(self._runtime.eventQuery(mark.ptr)))

    def finish(self) -> None:
        if self._made_stream is not None:
            self.reach(self.mark())  # others may go on asking for more

    def _await(self, query: Callable[[], int]) -> None:
        began = time.perf_counter()
        with self._reported(), self._device:
            while (status := query()) != _DONE:
                if status != _NOT_READY:
                    raise self._runtime.CUDARuntimeError(status)
                waited = time.perf_counter() - began
                if waited > WORK_SECONDS:
                    raise DeviceFailed(
                        f"the GPU {self.name} has not finished within {WORK_SECONDS:.0f} s what it was given"
                    )
                if waited > SPIN_SECONDS:
                    time.sleep(PAUSE_SECONDS)
                else:
                    os.sched_yield()

    # -- windows --------------------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> tuple[Memory, Letter]:
        with self._reported(), self._device, _making:
            spare = _spare.setdefault((self.number, nbytes), [])
            if spare:
                address, handle = spare.pop()
            else:
                address = self._taken(nbytes, lambda: self._runtime.malloc(nbytes))
                handle = bytes(self._runtime.ipcGetMemHandle(address))
                _allocated[handle] = address
        back = _Last(lambda: spare.append((address, handle)))
        return self._array(address, nbytes, back), Letter(os.getpid(), nbytes, self._identity(), handle)

    def open(self, letter: Letter) -> Memory:
        if letter.process == os.getpid() and letter.handle in _allocated:
            return self._array(_allocated[letter.handle], letter.nbytes, None)
        try:
            with self._device:
                address = self._runtime.ipcOpenMemHandle(letter.handle)
        except self._runtime.CUDARuntimeError as error:
            other = letter.device.decode(errors="replace")
            where = "the same GPU" if letter.device == self._identity() else f"another GPU ({other})"
            raise UnsupportedTransport(
                f"GPU memory of process {letter.process} on {where} cannot be opened here: {error}. There is no access "
                f"between the devices, the driver is too old, or the container forbids it; join with "
                f"transports=['shm', 'tcp'], and GPU arrays go through host memory"
            ) from None
        return self._array(address, letter.nbytes, _Last(lambda: self._close(address)))

    def _close(self, address: int) -> None:
        try:
            self.finish()
            with self._reported(), self._device:
                self._runtime.ipcCloseMemHandle(address)
        except DeviceFailed:
            pass  # its memory goes with the process

    def _array(self, address: int, nbytes: int, owner: Any) -> Memory:
        memory = self._cupy.cuda.UnownedMemory(address, nbytes, owner, self.number)
        return self._cupy.ndarray((nbytes,), np.uint8, self._cupy.cuda.MemoryPointer(memory, 0))

    def _identity(self) -> bytes:
        return bytes(str(self._device.pci_bus_id), "ascii")


class _Last:
    """Calls ``end`` when the last array that it owns the memory of has gone."""

    def __init__(self, end: Callable[[], None]):
        self._end = end

    def __del__(self) -> None:
        self._end()


@lru_cache(maxsize=64)
def _fused_kernel(cupy: Any, operator: str, parts: int) -> Any:
    names = [f"x{number}" for number in range(parts)]
    inputs = ", ".join(f"T {name}" for name in names)
    return cupy.ElementwiseKernel(inputs, "T y", f"y = {f' {operator} '.join(names)}", f"collcomm_reduce_{parts}")


def _address(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def _storage(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What cupy's arrays of ``dtype`` are made of: it knows bfloat16, and not the fp8 pair."""
    return np.dtype(np.uint8) if dtype.name.startswith("float8") else dtype
