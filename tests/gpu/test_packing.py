"""Strided data packed by a real GPU, compared with what the layout says of each byte."""

from __future__ import annotations

import random
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from collcomm.bench.gpupack import bench_gpu_packing
from collcomm.datatypes.cuda import Packer
from collcomm.datatypes.layout import Repeat, Run
from tests.support.layouts import offsets, random_layout

DTYPES = [np.dtype(kind) for kind in "?bBhHiIqQefdFD"] + [np.dtype(ml_dtypes.bfloat16)]


@pytest.fixture(scope="module")
def packer() -> Any:
    import cupy

    return Packer(cupy, cupy.cuda.Stream(non_blocking=True))


def _there(packer: Packer, host: Any, at: int = 0) -> Any:
    """A copy on the GPU whose address leaves ``at`` modulo 16."""
    cupy = packer._cupy
    memory = cupy.zeros(host.size + 32, np.uint8)
    memory[at : at + host.size] = cupy.asarray(host)
    cupy.cuda.Device().synchronize()  # the packer's stream waits for none
    return memory[at : at + host.size]


def _back(packer: Packer, array: Any) -> Any:
    packer._stream.synchronize()
    return packer._cupy.asnumpy(array)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("unit", [1, 2, 4, 8, 16])
def test_each_byte_goes_where_the_layout_says(packer: Packer, unit: int, seed: int) -> None:
    rng = random.Random(f"{unit} {seed}")
    for overlapping in (True, False):
        layout = random_layout(rng, unit, overlapping)
        low = layout.low
        host = np.frombuffer(rng.randbytes(layout.high - low), np.uint8)
        at = unit * rng.randrange(2) % 16
        strided, packed = _there(packer, host, at), _there(packer, np.zeros(layout.size, np.uint8), at)
        packer.pack(layout, strided, packed, -low)
        places = [offset - low for offset in offsets(layout)]
        assert np.array_equal(_back(packer, packed), host[places])
        if not overlapping:
            expected = host.copy()
            expected[places] = np.arange(layout.size)
            packer.unpack(layout, _there(packer, np.arange(layout.size).astype(np.uint8), at), strided, -low)
            assert np.array_equal(_back(packer, strided), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unpacking_combines_as_numpy_does(packer: Packer, dtype: np.dtype[Any]) -> None:
    rng = random.Random(str(dtype))
    for ufunc in (np.add, np.multiply, np.minimum, np.maximum, np.bitwise_and, np.bitwise_or, np.bitwise_xor):
        if (ufunc in (np.minimum, np.maximum) and dtype.kind == "c") or (
            ufunc.__name__.startswith("bit") and dtype.kind not in "iub"
        ):
            continue
        layout = random_layout(rng, dtype.itemsize, overlapping=False, depth=3)
        low = layout.low
        mine, theirs = (
            np.array([rng.randrange(2 if dtype.kind == "b" else 9) for _ in range(nbytes // dtype.itemsize)], dtype)
            for nbytes in (layout.high - low, layout.size)
        )
        strided = _there(packer, mine.view(np.uint8))
        packer.unpack_reduce(layout, _there(packer, theirs.view(np.uint8)), strided, ufunc, dtype, -low)
        places = [offset - low for offset in offsets(layout)]
        expected = mine.copy().view(np.uint8)
        expected[places] = ufunc(expected[places].view(dtype), theirs).view(np.uint8)
        assert np.array_equal(_back(packer, strided).view(dtype), expected.view(dtype))


def test_not_a_number_stays(packer: Packer) -> None:
    layout = Repeat(4, 8, Run(0, 4))
    nan = float("nan")
    for ufunc in (np.minimum, np.maximum):
        strided = _there(packer, np.array([1, 0, nan, 0, 2, 0, nan, 0], np.float32).view(np.uint8))
        packed = _there(packer, np.array([nan, 3, 1, nan], np.float32).view(np.uint8))
        packer.unpack_reduce(layout, packed, strided, ufunc, np.dtype(np.float32))
        found = _back(packer, strided).view(np.float32)[::2]
        np.testing.assert_array_equal(found, ufunc(np.float32([1, nan, 2, nan]), np.float32([nan, 3, 1, nan])))


def test_offsets_beyond_32_bits(packer: Packer) -> None:
    """Columns of bytes over 3 GiB."""
    cupy = packer._cupy
    rows, stride = 3 << 10, 1 << 20
    if cupy.cuda.runtime.memGetInfo()[0] < rows * stride + (1 << 28):
        pytest.skip("the GPU has not 3 GiB free")
    strided = cupy.zeros((rows, stride), np.uint8)
    strided[:, 7:9] = cupy.arange(2 * rows).astype(np.uint8).reshape(rows, 2)
    cupy.cuda.Device().synchronize()
    packed = _there(packer, np.zeros(2 * rows, np.uint8))
    packer.pack(Repeat(rows, stride, Run(7, 2)), strided.reshape(-1), packed)
    assert np.array_equal(_back(packer, packed), np.arange(2 * rows).astype(np.uint8))


def test_to_pinned_memory_of_the_host(packer: Packer) -> None:
    cupy = packer._cupy
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(300), np.uint8, 300)
    strided = _there(packer, np.arange(900).astype(np.uint8))
    packer.pack(Repeat(300, 3, Run(0, 1)), strided, pinned)
    packer._stream.synchronize()
    assert np.array_equal(pinned, np.arange(0, 900, 3).astype(np.uint8))


def test_the_bench_runs() -> None:
    *rows, last = bench_gpu_packing([1 << 20], rounds=2)
    assert all(row["seconds"] > 0 and row["copy"] > 0 for row in rows)
    assert last["copies"] > last["called"] > 0
