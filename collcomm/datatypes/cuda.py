"""Packing in the memory of a GPU, with a cupy that the caller has: kernels are compiled when first needed, and kept."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .kernels import WIDEST, launches
from .kernelsource import OPTIONS, THREADS, Kernel, source
from .layout import Layout, strided_blocks

Memory = Any  # bytes in one row: of the device (cupy's), or pinned ones of the host (numpy's)
READY = 64  # layouts that are kept ready, each for the remainders of its addresses; with up to 16 MiB on the GPU


class _Asked(NamedTuple):
    """``strided_at``, ``packed_at``: remainders of the addresses."""

    layout: Layout
    unpack: bool
    ufunc: str
    dtype: str
    strided_at: int
    packed_at: int


class _Step(NamedTuple):
    """One launch, but for the addresses. ``table``: the memory that holds it."""

    function: Any
    grid: tuple[int]
    source: int
    target: int
    dense: int
    numbers: np.ndarray[Any, Any]
    table: Any


class Packer:
    """Packs on the GPU that is current here, always on ``stream``; make one for each GPU. Errors of CUDA go through.

    ``origin``: the byte of the strided memory that is the layout's origin. All calls return at once, and raise ValueError where
    a memory is too small.
    """

    def __init__(self, cupy: Any, stream: Any):
        self._cupy, self._stream = cupy, stream
        self._multiprocessors = int(cupy.cuda.Device().attributes["MultiProcessorCount"])
        self._ready: dict[_Asked, tuple[_Step, ...]] = {}
        self._preparing = threading.Lock()

    def pack(self, layout: Layout, strided: Memory, packed: Memory, origin: int = 0) -> None:
        self._move(layout, strided, origin, packed, False)

    def unpack(self, layout: Layout, packed: Memory, strided: Memory, origin: int = 0) -> None:
        self._move(layout, strided, origin, packed, True)

    def unpack_reduce(
        self,
        layout: Layout,
        packed: Memory,
        strided: Memory,
        ufunc: np.ufunc,
        dtype: np.dtype[Any],
        origin: int = 0,
    ) -> None:
        """What lies there combined with ``packed``, elements of ``dtype``. Raises ValueError also where no kernel does that, or a
        run holds no whole number of elements."""
        self._move(layout, strided, origin, packed, True, ufunc.__name__, dtype.name)

    def _move(
        self,
        layout: Layout,
        strided: Memory,
        origin: int,
        packed: Memory,
        unpack: bool,
        ufunc: str = "",
        dtype: str = "",
    ) -> None:
        if not layout.size:
            return
        low, high = origin + layout.low, origin + layout.high
        if not (low >= 0 and high <= strided.nbytes and layout.size <= packed.nbytes):  # the GPU would not notice
            raise ValueError(
                f"the datatype reaches from byte {low} to {high} of a buffer of {strided.nbytes} bytes, and takes {layout.size} "
                f"of {packed.nbytes} bytes packed; give larger buffers, fewer items, or another offset"
            )
        strided_at, packed_at = _address(strided) + origin, _address(packed)
        asked = _Asked(layout, unpack, ufunc, dtype, strided_at % WIDEST, packed_at % WIDEST)
        source, target = (packed_at, strided_at) if unpack else (strided_at, packed_at)
        runtime = self._cupy.cuda.runtime
        with self._stream:
            for step in self._ready.get(asked) or self._prepare(asked):
                start, end = source + step.source, target + step.target
                if step.dense:
                    runtime.memcpyAsync(end, start, step.dense, runtime.memcpyDefault, self._stream.ptr)
                else:
                    table = step.table.ptr if step.table is not None else 0
                    step.function(step.grid, (THREADS,), (start, end, table, step.numbers))

    def _prepare(self, asked: _Asked) -> tuple[_Step, ...]:
        steps = []
        for launch in launches(strided_blocks(asked.layout), *asked[1:]):
            numbers = np.array(launch.numbers, np.uint64)
            one = np.dtype([("at", np.uint64, numbers.shape)])  # arrays of one element are passed by value
            steps.append(
                _Step(
                    None if launch.dense else _compiled(self._cupy, launch.kernel),
                    (launch.grid(self._multiprocessors),),
                    launch.source,
                    launch.target,
                    launch.dense,
                    numbers.view(one),
                    self._uploaded(launch.table) if launch.table else None,
                )
            )
        with self._preparing:
            while len(self._ready) >= READY:
                del self._ready[next(iter(self._ready))]  # the oldest; its tables go when nobody launches with them
            return self._ready.setdefault(asked, tuple(steps))

    def _uploaded(self, table: tuple[tuple[int, int], ...]) -> Any:
        """No part of a pool, which might hand it out again while kernels read it; CUDA frees it when they have ended."""
        rows = np.array(table, np.int64)
        runtime = self._cupy.cuda.runtime
        memory = self._cupy.cuda.Memory(rows.nbytes)
        runtime.memcpyAsync(memory.ptr, rows.ctypes.data, rows.nbytes, runtime.memcpyHostToDevice, self._stream.ptr)
        return memory


@lru_cache(maxsize=1024)
def _compiled(cupy: Any, kernel: Kernel) -> Any:
    return cupy.RawModule(code=source(kernel), options=OPTIONS).get_function(kernel.name)


def _address(memory: Memory) -> int:
    return int(memory.ctypes.data if isinstance(memory, np.ndarray) else memory.data.ptr)
