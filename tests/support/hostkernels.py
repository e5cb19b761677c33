"""The kernels of the GPU on the host: what a `Packer` asks of cupy, done by the machine's C++ compiler and one thread."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

COMPILER = shutil.which("g++") or shutil.which("clang++")
COMPILE_SECONDS = 60.0
_SHIM = """
struct Index { unsigned x; };
static Index blockIdx, threadIdx, gridDim, blockDim;
struct alignas(16) uint4 { unsigned x, y, z, w; };
#define __global__
#define __device__
static inline unsigned __umulhi(unsigned x, unsigned y) { return (unsigned long long)x * y >> 32; }
"""
_LAUNCH = """
extern "C" void launch(
    unsigned grid, unsigned block, const Word *source, Word *target, const Entry *table, const Numbers *numbers
) {{
    gridDim.x = grid, blockDim.x = block;
    for (blockIdx.x = 0; blockIdx.x < grid; blockIdx.x++)
        for (threadIdx.x = 0; threadIdx.x < block; threadIdx.x++) {name}(source, target, table, *numbers);
}}
"""


class HostCupy:
    """As much of the module cupy as packing needs. ``folder``: for what is compiled; ``launched``: names and grids."""

    def __init__(self, folder: Path, multiprocessors: int = 1):
        self.launched: list[tuple[str, int]] = []
        self.copied = 0
        self._folder = folder
        self._built: dict[str, Any] = {}
        runtime = SimpleNamespace(memcpyAsync=self._copy, memcpyDefault=4, memcpyHostToDevice=1)
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(attributes={"MultiProcessorCount": multiprocessors}),
            Memory=_Memory,
            runtime=runtime,
        )

    def RawModule(self, code: str, options: tuple[str, ...]) -> Any:
        return SimpleNamespace(get_function=lambda name: self._function(name, code))

    def _function(self, name: str, code: str) -> Any:
        if name not in self._built:
            self._built[name] = _build(self._folder / name, _SHIM + code + _LAUNCH.format(name=name))
        library = self._built[name]

        def call(grid: tuple[int], block: tuple[int], arguments: tuple[int, int, int, Any]) -> None:
            *addresses, numbers = arguments
            assert numbers.size == 1, "cupy passes one element by value"
            width = int(name.removesuffix("_wide").removesuffix("_table").rpartition("_")[2])
            assert all(address % width == 0 for address in addresses[:2]), "a GPU reads and writes aligned words"
            self.launched.append((name, grid[0]))
            pointers = [ctypes.c_void_p(address) for address in (*addresses, numbers.ctypes.data)]
            library.launch(grid[0], block[0], *pointers)

        return call

    def _copy(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> None:
        self.copied += kind == 4
        ctypes.memmove(target, source, nbytes)


class HostStream:
    ptr = 0

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


class _Memory:
    def __init__(self, nbytes: int):
        self._bytes = np.empty(nbytes, np.uint8)
        self.ptr = self._bytes.ctypes.data


def _build(path: Path, code: str) -> Any:
    assert COMPILER
    text, library = path.with_suffix(".cpp"), path.with_suffix(".so")
    text.write_text(code)
    command = [COMPILER, "-O0", "-w", "-ffp-contract=off", "-shared", "-fPIC", "-o", str(library), str(text)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))
