"""The kernels that pack on a GPU, compiled for the host and run there; and which of them is chosen."""

from __future__ import annotations

import mmap
import random
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from collcomm.datatypes.cuda import Packer
from collcomm.datatypes.kernels import LENGTHS, LIMIT, divisor, launches
from collcomm.datatypes.kernelsource import THREADS, WORDS, element_bytes
from collcomm.datatypes.layout import EMPTY, Layout, Repeat, Run, Several
from collcomm.datatypes.strided import Dim, StridedBlock
from tests.support.hostkernels import COMPILER, HostCupy, HostStream
from tests.support.layouts import offsets, random_layout

compiled = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler (g++ or clang++)")
UNITS = (1, 2, 4, 8, 16)


@pytest.fixture(scope="module")
def cupy(tmp_path_factory: pytest.TempPathFactory) -> HostCupy:
    return HostCupy(tmp_path_factory.mktemp("kernels"))


@pytest.fixture(scope="module")
def packer(cupy: HostCupy) -> Packer:
    return Packer(cupy, HostStream())


def _aligned(nbytes: int, at: int = 0) -> Any:
    """Bytes whose address leaves ``at`` modulo 16."""
    memory = np.empty(nbytes + 32, np.uint8)
    first = (at - memory.ctypes.data) % 16
    return memory[first : first + nbytes]


def _memories(layout: Layout, rng: random.Random, unit: int) -> tuple[Any, int, Any]:
    """Strided memory full of noise, the origin in it, packed memory with a margin."""
    strided = _aligned(layout.high - layout.low + 2 * unit, unit * rng.randrange(2) % 16)
    strided[:] = np.frombuffer(rng.randbytes(strided.size), np.uint8)
    packed = _aligned(layout.size, unit * rng.randrange(2) % 16)
    packed[:] = np.frombuffer(rng.randbytes(packed.size), np.uint8)
    return strided, unit - layout.low, packed


@compiled
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("unit", UNITS)
def test_each_byte_goes_where_the_layout_says(packer: Packer, unit: int, seed: int) -> None:
    rng = random.Random(f"{unit} {seed}")
    for overlapping in (True, False) * 3:
        layout = random_layout(rng, unit, overlapping)
        strided, origin, packed = _memories(layout, rng, unit)
        packer.pack(layout, strided, packed, origin)
        places = [offset + origin for offset in offsets(layout)]
        assert packed.tolist() == strided[places].tolist()
        if not overlapping:
            packed[:] = np.frombuffer(rng.randbytes(packed.size), np.uint8)
            expected = strided.copy()
            expected[places] = packed
            packer.unpack(layout, packed, strided, origin)
            assert strided.tolist() == expected.tolist()


DTYPES = [np.dtype(kind) for kind in "?bBhHiIlLefdFD"] + [np.dtype(ml_dtypes.bfloat16)]
UFUNCS = (np.add, np.multiply, np.minimum, np.maximum, np.bitwise_and, np.bitwise_or, np.bitwise_xor)


def _combines(ufunc: np.ufunc, dtype: np.dtype[Any]) -> bool:
    if ufunc in (np.minimum, np.maximum):
        return dtype.kind != "c"
    return ufunc in (np.add, np.multiply) or dtype.kind in "iub?"


@compiled
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unpacking_combines_as_numpy_does(packer: Packer, dtype: np.dtype[Any]) -> None:
    for ufunc in UFUNCS:
        rng = random.Random(f"{dtype} {ufunc.__name__}")
        if not _combines(ufunc, dtype):
            with pytest.raises(ValueError, match="no kernel"):
                element_bytes(ufunc.__name__, dtype.name)
            continue
        layout = random_layout(rng, dtype.itemsize, overlapping=False, depth=2)
        strided, origin, packed = _memories(layout, rng, dtype.itemsize)
        values = _values(dtype, rng)
        strided[:] = np.resize(values, strided.size // dtype.itemsize).view(np.uint8)
        packed[:] = np.resize(values[::-1], packed.size // dtype.itemsize).view(np.uint8)
        places = [offset + origin for offset in offsets(layout)]
        expected = strided.copy()
        with np.errstate(all="ignore"):
            expected[places] = ufunc(strided[places].view(dtype), packed.view(dtype)).view(np.uint8)
        packer.unpack_reduce(layout, packed, strided, ufunc, dtype, origin)
        seen = np.complex128 if dtype.kind == "c" else np.float64 if dtype.kind not in "iub" else dtype
        np.testing.assert_array_equal(strided.view(dtype).astype(seen), expected.view(dtype).astype(seen))


def _values(dtype: np.dtype[Any], rng: random.Random) -> Any:
    if dtype.kind in "iu":
        return np.frombuffer(rng.randbytes(37 * dtype.itemsize), dtype)
    if dtype.kind == "b":
        return np.array([rng.random() < 0.5 for _ in range(37)])
    if (
        dtype.kind == "c"
    ):  # whole numbers: with others, numpy rounds a product as the processor it runs on likes it best
        return np.array([complex(rng.randrange(-99, 99), rng.randrange(-99, 99)) for _ in range(37)], dtype)
    odd = [float("nan"), float("inf"), -float("inf"), 0.0, 3e38, 6e4, 65519.0]
    with np.errstate(all="ignore"):
        return np.array([*(rng.gauss(0, 3) for _ in range(30)), *odd]).astype(dtype)


@compiled
def test_elements_that_are_not_aligned_are_combined_in_pieces(packer: Packer, cupy: HostCupy) -> None:
    """A double behind a word of two bytes, as in a packed struct."""
    layout = Repeat(5, 10, Run(2, 8))
    strided, packed = _aligned(50), _aligned(40)
    strided[:] = 7
    there = np.ndarray(5, np.float64, strided, 2, (10,))
    there[:] = np.arange(5)
    packed[:] = np.arange(5.0).view(np.uint8)
    cupy.launched.clear()
    packer.unpack_reduce(layout, packed, strided, np.add, np.dtype(np.float64))
    assert there.tolist() == [0, 2, 4, 6, 8] and strided[:2].tolist() == [7, 7]
    assert cupy.launched == [("collcomm_add_float64_1_2", 1)]


@compiled
def test_more_words_than_the_grid_has_threads(cupy: HostCupy, packer: Packer) -> None:
    count = 20 * THREADS * WORDS + 3
    strided, packed = np.arange(3 * count).astype(np.uint8), np.empty(count, np.uint8)
    packer.pack(Repeat(count, 3, Run(0, 1)), strided, packed)
    assert np.array_equal(packed, strided[::3]) and cupy.launched[-1][1] == 16


@compiled
@pytest.mark.parametrize("stride", [1 << 30, -(1 << 30)])
@pytest.mark.parametrize("several", [False, True])
def test_offsets_beyond_32_bits(cupy: HostCupy, packer: Packer, stride: int, several: bool) -> None:
    """In memory of which almost nothing is touched."""
    strided = np.frombuffer(mmap.mmap(-1, (3 << 30) + 4096), np.uint8)
    runs = Several((Run(0, 1), Run(5, 1), Run(7, 1))) if several else Run(0, 1)
    layout = Repeat(4, stride, runs)
    origin = -layout.low
    places = [offset + origin for offset in offsets(layout)]
    values = np.arange(1, layout.size + 1, dtype=np.uint8)
    packer.unpack(layout, values, strided, origin)
    assert strided[places].tolist() == values.tolist()
    packed = np.zeros(layout.size, np.uint8)
    packer.pack(layout, strided, packed, origin)
    assert packed.tolist() == values.tolist()
    assert cupy.launched[-1][0].endswith("_wide") and cupy.launched[-1][0].endswith("_table_wide") == several


@compiled
def test_what_lies_in_one_row_is_copied(cupy: HostCupy, packer: Packer) -> None:
    layout = Repeat(3, 32, Repeat(4, 8, Run(0, 8)))
    strided, packed = np.arange(96, dtype=np.uint8), np.empty(96, np.uint8)
    cupy.launched.clear()
    before = cupy.copied
    packer.pack(layout, strided, packed)
    assert np.array_equal(strided, packed) and not cupy.launched and cupy.copied == before + 1


@compiled
def test_blocks_of_one_shape_and_the_items_of_a_batch_go_in_one_launch(cupy: HostCupy, packer: Packer) -> None:
    rng = random.Random(3)
    starts = rng.sample(range(0, 4000, 8), 100)
    layout = Repeat(3, 4008, Several(tuple(Run(start, 8) for start in starts)))
    strided, origin, packed = _memories(layout, rng, 8)
    cupy.launched.clear()
    packer.pack(layout, strided, packed, origin)
    assert packed.tolist() == [strided[offset + origin] for offset in offsets(layout)]
    assert len(cupy.launched) == 1


@compiled
def test_runs_of_many_lengths_take_few_launches(cupy: HostCupy, packer: Packer) -> None:
    rng = random.Random(5)
    runs, start = [], 0
    for _ in range(300):
        runs.append(Run(start, 2 * rng.randrange(1, 50)))
        start = runs[-1].high + 2 * rng.randrange(5)
    layout = Repeat(2, start, Several(tuple(runs)))
    strided, origin, packed = _memories(layout, rng, 2)
    cupy.launched.clear()
    packer.pack(layout, strided, packed, origin)
    places = [offset + origin for offset in offsets(layout)]
    assert packed.tolist() == strided[places].tolist()
    assert len(cupy.launched) <= 2 * LENGTHS
    cupy.launched.clear()
    packer.unpack_reduce(layout, packed, strided, np.add, np.dtype(np.uint16), origin)
    assert strided[places].view(np.uint16).tolist() == (2 * packed.view(np.uint16)).tolist()
    assert len(cupy.launched) <= LENGTHS


@compiled
def test_what_does_not_fit_is_refused(packer: Packer) -> None:
    layout = Repeat(4, 8, Run(0, 4))
    for strided, packed, origin in ((27, 16, 0), (28, 15, 0), (28, 16, -1), (28, 16, 1)):
        with pytest.raises(ValueError, match="reaches from byte"):
            packer.pack(layout, np.zeros(strided, np.uint8), np.zeros(packed, np.uint8), origin)
    packer.pack(EMPTY, np.zeros(0, np.uint8), np.zeros(0, np.uint8))


# -- the choice, with sizes that no test has memory for --------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_the_widest_word_that_divides_all(unit: int) -> None:
    block = StridedBlock(unit, 0, 48, (Dim(4, 160, 48),))
    (launch,) = launches([block])
    assert launch.kernel.width == unit and launch.total * unit == 48 * 4
    assert launches([block], strided_at=-unit % 16)[0].kernel.width == 16
    assert launches([block], strided_at=-unit % 16, packed_at=4)[0].kernel.width == 4
    assert launches([block._replace(dims=(Dim(4, 162, 48),))], strided_at=-unit % 16)[0].kernel.width == min(
        unit * 2, 2
    )


def test_a_level_for_each_dimension_that_does_not_continue_another() -> None:
    def levels(nbytes: int, *dims: Dim) -> int:
        return launches([StridedBlock(0, 0, nbytes, dims)])[0].kernel.levels

    assert levels(8, Dim(100, 800, 8)) == 1
    assert levels(24, Dim(100, 800, 24)) == 2
    assert levels(8, Dim(5, 8, 800), Dim(100, 800, 8)) == 2
    assert levels(8, Dim(5, 80_000, 800), Dim(100, 800, 8)) == 1


def test_neighbouring_words_are_neighbours_where_they_are_written() -> None:
    """A transposition: one side is walked in steps of a row."""
    block = StridedBlock(0, 0, 4, (Dim(100, 400, 4), Dim(100, 4, 400)))
    for unpack in (False, True):
        (launch,) = launches([block], unpack)
        assert launch.numbers[1:3] == (100, 1)  # of the innermost level, in words of source and target


def test_offsets_of_64_bits_only_where_they_are_needed() -> None:
    def wide(stride: int, width: int) -> bool:
        return launches([StridedBlock(0, 0, width, (Dim(1025, stride, width),))])[0].kernel.wide

    assert not wide((1 << 21) - 1, 1) and wide(1 << 21, 1)
    assert not wide(1 << 21, 16) and wide(1 << 25, 16)
    assert wide(-(1 << 21), 1)


@pytest.mark.parametrize("table", [False, True])
def test_more_words_than_32_bits_count_go_in_parts(table: bool) -> None:
    """Each part's first and last word lie where the whole has them."""
    inner = 1 << (25 if table else 30)
    size = 3 * 7 * inner
    dims = (Dim(3, 1 << 60, 4 * size if table else size), Dim(7, 1 << 40, 3 * inner), Dim(inner, 7, 3))
    blocks = [StridedBlock(5 + (k << 50), k * size, 3, dims) for k in range(4 if table else 1)]
    found = launches(blocks)
    assert len(found) == 4 if table else len({launch.kernel for launch in found}) == 1
    assert {len(launch.table) for launch in found} == ({3, 0} if table else {0})
    assert all(launch.total < LIMIT for launch in found)
    assert sum(launch.total * launch.kernel.width for launch in found) == sum(block.size for block in blocks)
    assert min(launch.source for launch in found) == 5 and min(launch.target for launch in found) == 0
    assert len({(launch.source, launch.target) for launch in found}) == len(found)
    for launch in found[:: max(1, len(found) // 50)]:
        for index in (0, launch.total - 1):
            source, target = _word(launch, index)
            assert source == _where(blocks, target)


def _word(launch: Any, index: int) -> tuple[int, int]:
    """Where a word lies by the numbers that the kernel gets: bytes of source and of target."""
    levels, numbers = launch.kernel.levels, launch.numbers
    quotients = [index]
    for magic, shift in zip(*[iter(numbers[1 + 2 * levels : -1])] * 2, strict=True):
        quotients.append((quotients[-1] * magic >> 32) >> shift)
    offsets = []
    for side in (0, 1):
        offset = sum(q * numbers[1 + 2 * level + side] for level, q in enumerate(quotients)) % (1 << 64)
        offset -= (offset >> 63) << 64
        if launch.table:
            offset += launch.table[quotients[-2] - quotients[-1] * numbers[-1]][side]
        offsets.append(offset * launch.kernel.width)
    return launch.source + offsets[0], launch.target + offsets[1]


def _where(blocks: list[StridedBlock], packed: int) -> int:
    """The byte of the strided memory that goes to ``packed``, where blocks and dims lie in the packed order."""
    outer, *inner = blocks[0].dims
    item, packed = divmod(packed, outer.packed)
    block = next(block for block in reversed(blocks) if block.packed <= packed)
    at, packed = block.start + item * outer.stride, packed - block.packed
    for dim in inner:
        index, packed = divmod(packed, dim.packed)
        at += index * dim.stride
    return at + packed


def test_division_by_multiplication() -> None:
    rng = random.Random(1)
    counts = [*range(2, 70), *(2**k + d for k, d in product(range(7, 31), (-1, 0, 1))), LIMIT - 1]
    for count in counts:
        magic, shift = divisor(count)
        assert magic < 1 << 32 and 0 <= shift < 32
        tops = [LIMIT // count * count + d for d in (-1, 0)]
        for x in [0, 1, count - 1, count, LIMIT - 1, *tops, *(rng.randrange(LIMIT) for _ in range(50))]:
            assert x >= LIMIT or (x * magic >> 32) >> shift == x // count


def test_runs_that_hold_no_whole_elements_are_refused() -> None:
    with pytest.raises(ValueError, match="a run of 6 bytes holds no whole number of float32"):
        launches([StridedBlock(0, 0, 6, ())], unpack=True, ufunc="add", dtype="float32")


def test_kernels_are_kept(tmp_path: Path) -> None:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler (g++ or clang++)")
    cupy = HostCupy(tmp_path)
    one = Packer(cupy, HostStream())
    for stride in (5, 7, 9):
        one.pack(Repeat(4, stride, Run(0, 1)), np.zeros(99, np.uint8), np.zeros(4, np.uint8))
    assert len(cupy.launched) == 3 and len(list(tmp_path.glob("*.so"))) == 1
