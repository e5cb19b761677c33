"""Packing in the memory of a GPU, with a cupy that the caller has: kernels are compiled when first needed, and kept."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .kernels import WIDEST, launches, span
from .kernelsource import OPTIONS, THREADS, Kernel, source
from .strided import StridedBlock

Memory = Any  # bytes in one row: of the device (cupy's), or pinned ones of the host (numpy's)
READY = 256  # layouts that are kept ready, each for the remainders of its addresses


class _Asked(NamedTuple):
    blocks: tuple[StridedBlock, ...]
    extent: int
    items: int
    unpack: bool
    ufunc: str = ""
    dtype: str = ""


class _Step(NamedTuple):
    """One launch, but for the addresses. ``table``: the memory that holds it."""

    function: Any
    grid: tuple[int]
    source: int
    target: int
    dense: int
    numbers: np.ndarray[Any, Any]
    table: Any


class _Ready(NamedTuple):
    """``low`` to ``high``: the bytes of strided memory from its origin on; ``size``: of the packed."""

    low: int
    high: int
    size: int
    steps: tuple[_Step, ...]


class Packer:
    """Packs on the GPU that is current here, always on ``stream``; make one for each GPU. Errors of CUDA go through.

    ``blocks`` are the layout of an item; ``count`` of them lie ``extent`` bytes apart in the strided memory, from byte ``origin``
    of it on, and in one row in the packed. All calls return at once, and raise ValueError where a memory is too small.
    """

    def __init__(self, cupy: Any, stream: Any):
        self._cupy, self._stream = cupy, stream
        self._multiprocessors = int(cupy.cuda.Device().attributes["MultiProcessorCount"])
        self._ready: dict[tuple[_Asked, int, int], _Ready] = {}

    def pack(
        self, blocks: tuple[StridedBlock, ...], extent: int, count: int, source: Memory, target: Memory, origin: int = 0
    ) -> None:
        """Strided ``source`` to packed ``target``."""
        self._move(_Asked(blocks, extent, count, False), source, origin, target)

    def unpack(
        self, blocks: tuple[StridedBlock, ...], extent: int, count: int, source: Memory, target: Memory, origin: int = 0
    ) -> None:
        """Packed ``source`` to strided ``target``."""
        self._move(_Asked(blocks, extent, count, True), target, origin, source)

    def unpack_reduce(
        self,
        ufunc: np.ufunc,
        dtype: np.dtype[Any],
        blocks: tuple[StridedBlock, ...],
        extent: int,
        count: int,
        source: Memory,
        target: Memory,
        origin: int = 0,
    ) -> None:
        """What lies in the strided ``target`` combined with the packed ``source``, elements of ``dtype``. Raises ValueError also
        where no kernel does that, or a run holds no whole number of elements."""
        self._move(_Asked(blocks, extent, count, True, ufunc.__name__, dtype.name), target, origin, source)

    def _move(self, asked: _Asked, strided: Memory, origin: int, packed: Memory) -> None:
        strided_at, packed_at = _address(strided) + origin, _address(packed)
        key = asked, strided_at % WIDEST, packed_at % WIDEST
        runtime = self._cupy.cuda.runtime
        with self._stream:
            low, high, size, steps = self._ready.get(key) or self._prepare(*key)
            low, high = origin + low, origin + high
            if size and not (low >= 0 and high <= strided.nbytes and size <= packed.nbytes):  # the GPU would not notice
                raise ValueError(
                    f"{asked.items} items of a datatype reach from byte {low} to {high} of the strided array and take {size} "
                    f"packed: arrays of {strided.nbytes} and {packed.nbytes} bytes do not hold them"
                )
            source, target = (packed_at, strided_at) if asked.unpack else (strided_at, packed_at)
            for step in steps:
                start, end = source + step.source, target + step.target
                if step.dense:
                    runtime.memcpyAsync(end, start, step.dense, runtime.memcpyDefault, self._stream.ptr)
                else:
                    table = step.table.ptr if step.table else 0
                    step.function(step.grid, (THREADS,), (start, end, table, step.numbers))

    def _prepare(self, asked: _Asked, strided_at: int, packed_at: int) -> _Ready:
        steps = []
        for launch in launches(*asked, strided_at, packed_at):
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
        while len(self._ready) >= READY:
            del self._ready[next(iter(self._ready))]
        size = asked.items * sum(block.size for block in asked.blocks)
        ready = _Ready(*span(asked.blocks, asked.extent, asked.items), size, tuple(steps))
        return self._ready.setdefault((asked, strided_at, packed_at), ready)

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
