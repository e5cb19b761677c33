"""CUDA-IPC: memory of one process's GPU in the address space of others of its host, through cupy.

Windows are plain allocations of ours (cudaMalloc), since what a framework's pool hands out is a part of something larger, and
pools may hand it out again. Of an importer's mapping the driver keeps the memory until it is closed, also when its owner
has died.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

from ..errors import UnsupportedTransport
from .device import Accepted, DeviceFailed, Letter, Mark, Memory

WORK_SECONDS = 60.0  # a device that has not done its work by then hangs, or is shared with somebody who is very busy
SPIN_SECONDS = 200e-6  # looks without a pause; a small operation ends sooner
PAUSE_SECONDS = 50e-6
INSTALL = "pip install 'collcomm[cuda12]' or 'collcomm[cuda13]', whichever the driver serves"
_DONE, _NOT_READY = 0, 600  # as cudaStreamQuery says
_TORCH_BITS = {
    "torch.bfloat16": "int16",
    "torch.float8_e4m3fn": "uint8",
    "torch.float8_e5m2": "uint8",
}  # it shows no others
_FUSED = {"add": "+", "multiply": "*"}
_opened_here: dict[bytes, Memory] = {}  # a process cannot open its own handles


@lru_cache(maxsize=1)
def _cupy() -> Any:
    """cupy, where it finds a GPU. Raises UnsupportedTransport saying what is missing."""
    if importlib.util.find_spec("cupy") is None:
        raise UnsupportedTransport(f"cupy is not installed: {INSTALL}")
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UnsupportedTransport(f"cupy {cupy.__version__} finds no GPU: {error}") from None
    if not count:
        raise UnsupportedTransport(f"cupy {cupy.__version__} finds no GPU")
    return cupy


def find_device() -> CudaDevice:
    """The GPU that is current in this thread. Raises UnsupportedTransport saying what is missing."""
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

    @property
    def _stream(self) -> Any:
        if self._made_stream is None:
            with self._device:
                self._made_stream = self._cupy.cuda.Stream(non_blocking=True)
        return self._made_stream

    @contextmanager
    def _queue(self) -> Iterator[None]:
        """What cupy does inside goes to our stream; errors of CUDA become DeviceFailed."""
        with self._reported(), self._device, self._stream:
            yield

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (self._runtime.CUDARuntimeError, self._cupy.cuda.driver.CUDADriverError) as error:
            raise DeviceFailed(
                f"the GPU {self.name} reports {error}; this peer has left the group, start it again"
            ) from None

    # -- arrays of the caller -------------------------------------------------------------------------------------------

    def accept(self, value: Any, what: str) -> Accepted:
        with self._reported(), self._device:
            given, writable = value, True
            if _is_torch(value):
                given = _visible(value.detach())
                ready = sys.modules["torch"].cuda.current_stream(value.device).record_event
            else:
                ready = self._cupy.cuda.get_current_stream().record
                if not isinstance(value, self._cupy.ndarray):
                    writable = not value.__cuda_array_interface__["data"][1]
            array = self._cupy.asarray(given)  # waits for the stream that the object names, if it does
            if int(array.device.id) != self.number:
                raise UnsupportedTransport(
                    f"{what} lies on cuda:{int(array.device.id)}, and this communicator works on {self.name}, which was "
                    f"the current device when join() was called"
                )
            dtype = _dtype_of(value, array)
            array = array.view(_storage(dtype))
            copied = not array.flags.c_contiguous
            flat = self._cupy.asarray(given.contiguous()).view(array.dtype) if copied and given is not value else array
            flat = self._cupy.ascontiguousarray(flat).reshape(-1)
            return Accepted(array, flat, dtype, copied, writable, ready())

    def blank(self, template: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Of the pool of its framework, on the stream that is current there."""
        if _is_torch(template):
            return template.new_empty(shape)
        with self._reported(), self._device:
            return self._cupy.empty(shape, dtype)

    def present(self, array: Any, template: Any) -> Any:
        if not _is_torch(template):
            return array
        bits = _TORCH_BITS.get(str(template.dtype))
        torch = sys.modules["torch"]
        tensor = torch.as_tensor(array if bits is None else array.view(bits), device=template.device)
        return tensor if bits is None else tensor.view(template.dtype)

    def shares(self, one: Any, other: Any) -> bool:
        return bool(self._cupy.may_share_memory(one, other))

    # -- memory ---------------------------------------------------------------------------------------------------------

    def empty(self, count: int, dtype: np.dtype[Any]) -> Memory:
        """No part of a pool, which would have to know of our stream."""
        with self._reported(), self._device:
            pointer = self._cupy.cuda.MemoryPointer(self._cupy.cuda.Memory(count * dtype.itemsize), 0)
            return self._cupy.ndarray((count,), _storage(dtype), pointer)

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
        with self._reported(), self._device:
            return np.frombuffer(self._cupy.cuda.alloc_pinned_memory(max(1, nbytes)), np.uint8, nbytes)

    # -- reducing -------------------------------------------------------------------------------------------------------

    def reduce(self, ufunc: np.ufunc, dtype: np.dtype[Any], parts: Sequence[Memory], target: Memory) -> None:
        """Sums and products of numbers in one pass; others two by two."""
        with self._queue():
            typed = [part.view(dtype) for part in parts]
            result = target.view(dtype)
            if len(parts) > 2 and ufunc.__name__ in _FUSED and dtype.kind in "iufc":
                _fused_kernel(self._cupy, _FUSED[ufunc.__name__], len(parts))(*typed, result)
                return
            combine = getattr(self._cupy, ufunc.__name__)
            combine(typed[0], typed[1], out=result)
            for part in typed[2:]:
                combine(result, part, out=result)

    def divide(self, target: Memory, divisor: int) -> None:
        with self._queue():
            self._cupy.divide(target, target.dtype.type(divisor), out=target)

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
            self._await(lambda: int(self._runtime.streamQuery(self._made_stream.ptr)))

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
        with self._reported(), self._device:
            pointer = self._cupy.cuda.MemoryPointer(self._cupy.cuda.Memory(nbytes), 0)
            memory = self._cupy.ndarray((nbytes,), np.uint8, pointer)
            handle = bytes(self._runtime.ipcGetMemHandle(pointer.ptr))
        _opened_here[handle] = memory
        return memory, Letter(os.getpid(), nbytes, self._identity(), handle)

    def release(self, memory: Memory) -> None:
        """The memory goes with the last array of it."""
        for handle in [handle for handle, found in _opened_here.items() if found is memory]:
            del _opened_here[handle]

    def open(self, letter: Letter) -> Memory:
        if letter.process == os.getpid() and letter.handle in _opened_here:
            return _opened_here[letter.handle]
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
        memory = self._cupy.cuda.UnownedMemory(address, letter.nbytes, None, self.number)
        return self._cupy.ndarray((letter.nbytes,), np.uint8, self._cupy.cuda.MemoryPointer(memory, 0))

    def close(self, memory: Memory) -> None:
        if any(found is memory for found in _opened_here.values()):
            return
        with self._reported(), self._device:
            self._runtime.ipcCloseMemHandle(memory.data.ptr)

    def _identity(self) -> bytes:
        return bytes(str(self._device.pci_bus_id), "ascii")


@lru_cache(maxsize=64)
def _fused_kernel(cupy: Any, operator: str, parts: int) -> Any:
    names = [f"x{number}" for number in range(parts)]
    inputs = ", ".join(f"T {name}" for name in names)
    return cupy.ElementwiseKernel(inputs, "T y", f"y = {f' {operator} '.join(names)}", f"collcomm_reduce_{parts}")


def _address(array: Any) -> int:
    return int(array.ctypes.data if isinstance(array, np.ndarray) else array.data.ptr)


def _is_torch(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "data_ptr")


def _visible(tensor: Any) -> Any:
    """A torch tensor as one of a dtype that torch shows to others."""
    bits = _TORCH_BITS.get(str(tensor.dtype))
    return tensor if bits is None else tensor.view(getattr(sys.modules["torch"], bits))


def _dtype_of(value: Any, array: Any) -> np.dtype[Any]:
    name = str(getattr(value, "dtype", ""))
    return np.dtype(getattr(ml_dtypes, name.removeprefix("torch."))) if name in _TORCH_BITS else np.dtype(array.dtype)


def _storage(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What cupy's arrays of ``dtype`` are made of: it knows bfloat16, and not the fp8 pair."""
    return np.dtype(np.uint8) if dtype.name.startswith("float8") else dtype
