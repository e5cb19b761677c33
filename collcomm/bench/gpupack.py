"""Packing on a GPU: how near it comes to a plain copy there, and how far it is beyond one copy for each block."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..datatypes.cuda import Packer
from ..datatypes.layout import Layout, Repeat, Run
from .gpu import cupy, gpu_facts
from .measure import format_seconds, format_size

Row = dict[str, Any]
SIZES = [1 << 20, 4 << 20, 16 << 20, 64 << 20]
BLOCKS = (8, 16, 32, 64, 128, 256, 512)
STRIDE = 512  # of TEMPI's benchmark types; beside blocks with gaps of their own size
LAUNCHES = 50  # in one graph, so that the processor's part in a launch is not measured


def bench_gpu_packing(sizes: Sequence[int] = SIZES, rounds: int = 5) -> list[Row]:
    """Equal blocks at equal distances, ``sizes`` bytes packed. ``seconds``: what the GPU takes to pack; ``unpack``; ``copy``:
    of as many bytes in one row; ``called``: from the call to its end. What fits into the GPU's cache stays there meanwhile."""
    xp = cupy()
    bench = _Bench(xp, rounds)
    facts = gpu_facts()
    rows = []
    for nbytes in sizes:
        for block, stride in _grid():
            if nbytes // block * stride > xp.cuda.runtime.memGetInfo()[0] // 2:
                print(
                    f"{format_size(nbytes)} of {block} B every {stride} B do not fit into half of the GPU's free memory"
                )
                continue
            rows.append(
                {**facts, "nbytes": nbytes, "block": block, "stride": stride, **bench.times(nbytes, block, stride)}
            )
    rows += [{**facts, **bench.against_copies(1 << 20, 8, STRIDE)}]
    return rows


def _grid() -> Iterator[tuple[int, int]]:
    for block in BLOCKS:
        yield block, 2 * block
        if 2 * block < STRIDE:
            yield block, STRIDE


class _Bench:
    def __init__(self, xp: Any, rounds: int):
        self._xp, self._rounds = xp, rounds
        self._stream = xp.cuda.Stream(non_blocking=True)
        self._packer = Packer(xp, self._stream)

    def times(self, nbytes: int, block: int, stride: int) -> Row:
        layout, strided, packed = self._arrays(nbytes, block, stride)
        other = self._xp.empty_like(packed)

        def pack() -> None:
            self._packer.pack(layout, strided, packed)

        pack()
        self._stream.synchronize()
        if not bool((packed.reshape(-1, block) == strided.reshape(-1, stride)[:, :block]).all()):
            raise AssertionError(f"{block} B every {stride} B are packed wrongly")
        return {
            "seconds": self._on_gpu(pack),
            "unpack": self._on_gpu(lambda: self._packer.unpack(layout, packed, strided)),
            "copy": self._on_gpu(lambda: self._copy(other.data.ptr, packed.data.ptr, nbytes)),
            "called": self._called(pack),
        }

    def against_copies(self, nbytes: int, block: int, stride: int) -> Row:
        """One call, and one copy for each block, both until the GPU has done it."""
        layout, strided, packed = self._arrays(nbytes, block, stride)
        source, target = strided.data.ptr, packed.data.ptr

        def copies() -> None:
            for index in range(nbytes // block):
                self._copy(target + index * block, source + index * stride, block)

        return {
            "nbytes": nbytes,
            "block": block,
            "stride": stride,
            "called": self._called(lambda: self._packer.pack(layout, strided, packed)),
            "copies": self._called(copies),
        }

    def _arrays(self, nbytes: int, block: int, stride: int) -> tuple[Layout, Any, Any]:
        count = nbytes // block
        strided = self._xp.empty(count * stride, np.uint8)
        strided.reshape(count, stride)[:, :block] = self._xp.arange(nbytes, dtype=np.uint8).reshape(count, block)
        packed = self._xp.empty(nbytes, np.uint8)
        self._xp.cuda.Device().synchronize()
        return Repeat(count, stride, Run(0, block)), strided, packed

    def _copy(self, target: int, source: int, nbytes: int) -> None:
        runtime = self._xp.cuda.runtime
        runtime.memcpyAsync(target, source, nbytes, runtime.memcpyDeviceToDevice, self._stream.ptr)

    def _on_gpu(self, call: Callable[[], None]) -> float:
        """Seconds of the GPU for one ``call``; median of the rounds."""
        call()  # compiles
        with self._stream:
            self._stream.begin_capture()
            for _ in range(LAUNCHES):
                call()
            graph = self._stream.end_capture()
        graph.launch(stream=self._stream)
        seconds = []
        for _ in range(self._rounds):
            start, end = self._xp.cuda.Event(), self._xp.cuda.Event()
            start.record(self._stream)
            graph.launch(stream=self._stream)
            end.record(self._stream)
            end.synchronize()
            seconds.append(self._xp.cuda.get_elapsed_time(start, end) / 1e3 / LAUNCHES)
        return statistics.median(seconds)

    def _called(self, call: Callable[[], None]) -> float:
        seconds = []
        for _ in range(self._rounds + 1):  # the first is left out
            began = time.perf_counter()
            call()
            self._stream.synchronize()
            seconds.append(time.perf_counter() - began)
        return statistics.median(seconds[1:])


def cells(row: Row) -> dict[str, str]:
    """A row as it is printed; shares are of the bandwidth of the copy of as many bytes, and of one of 256 MiB."""
    shown = {
        "size": format_size(row["nbytes"]),
        "block": f"{row['block']} B",
        "every": f"{row['stride']} B",
        "called": format_seconds(row["called"]),
    }
    if "copies" in row:
        return {
            **shown,
            "copies": format_seconds(row["copies"]),
            "copies / called": f"{row['copies'] / row['called']:.0f}x",
        }
    rate = 2 * row["nbytes"] / row["seconds"]
    return {
        **shown,
        "pack": f"{row['seconds'] * 1e6:.1f} us",
        "unpack": f"{row['unpack'] * 1e6:.1f} us",
        "copy": f"{row['copy'] * 1e6:.1f} us",
        "pack / copy": f"{100 * row['copy'] / row['seconds']:.0f}%",
        "unpack / copy": f"{100 * row['copy'] / row['unpack']:.0f}%",
        "read and written": f"{rate / 1e9:.0f} GB/s",
        "of a large copy's": f"{100 * rate / row['copy_bandwidth']:.0f}%",
    }
