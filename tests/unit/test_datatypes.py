"""Datatypes against the type map as the MPI standard defines it, written down element by element in plain Python."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collcomm import datatypes as dt
from collcomm.datatypes import canonical, hostcopies
from collcomm.datatypes.canonical import layout_of, of_runs
from collcomm.datatypes.darray import darray
from collcomm.datatypes.datatype import MAX_BYTES, MAX_DEPTH
from collcomm.datatypes.layout import MAX_RUNS, Layout, Repeat, Run, Several, strided_blocks, tiles
from collcomm.datatypes.packing import HostPacking
from collcomm.datatypes.strides import packing_of
from tests.support.layouts import offsets as offsets_of
from tests.support.typemaps import Built, reproducible, types


def offsets_of_blocks(blocks: Iterable[dt.StridedBlock], size: int) -> list[int | None]:
    found: list[int | None] = [None] * size
    for block in blocks:
        for index in itertools.product(*(range(dim.count) for dim in block.dims)):
            start = block.start + sum(i * dim.stride for i, dim in zip(index, block.dims, strict=True))
            packed = block.packed + sum(i * dim.packed for i, dim in zip(index, block.dims, strict=True))
            for byte in range(block.nbytes):
                assert found[packed + byte] is None
                found[packed + byte] = start + byte
    return found


# -- random types against the oracle -----------------------------------------------------------------------------------


def check(made: Built, count: int, limit: int) -> None:
    datatype, expected = made.datatype, made.map
    offsets = expected.offsets
    assert (datatype.size, datatype.lb, datatype.extent) == (len(offsets), expected.lb, expected.extent)
    true_lb = min(offsets, default=0)
    assert (datatype.true_lb, datatype.true_extent) == (true_lb, max(offsets, default=true_lb - 1) + 1 - true_lb)
    elements = {dtype for _, dtype in expected.entries}
    if elements:
        assert datatype.element == (elements.pop() if len(elements) == 1 else None)
    assert datatype.overlaps == (len(set(offsets)) < len(offsets))
    assert offsets_of(datatype.layout) == offsets
    assert offsets_of_blocks(datatype.blocks, datatype.size) == offsets

    of_bytes = dt.hindexed([1] * len(offsets), offsets, "u1")  # the same list by another road
    assert of_bytes.layout == datatype.layout and hash(of_bytes.layout) == hash(datatype.layout)
    assert of_bytes.blocks == datatype.blocks

    repeated = [offset + item * expected.extent for item in range(count) for offset in offsets]
    items = datatype.items(count)
    assert offsets_of(items) == repeated
    assert dt.hindexed([1] * len(repeated), repeated, "u1").layout == items

    pieces = list(tiles(items, limit))
    assert [offset + by for by, piece in pieces for offset in offsets_of(piece)] == repeated
    assert all(0 < piece.size < 2 * limit for _, piece in pieces) or not repeated
    check_packing(items, repeated, datatype.element)


def check_packing(layout: Layout, offsets: list[int], element: np.dtype[Any] | None) -> None:
    origin = 3 - min(offsets, default=0)
    chance = np.random.default_rng(len(offsets))
    memory = chance.integers(0, 60, origin + max(offsets, default=0) + 5, np.uint8)  # as floats: finite
    wire = chance.integers(0, 60, len(offsets), np.uint8)
    places = np.array(offsets, np.int64) + origin
    before = memory.copy()

    packing = HostPacking(layout, memory, origin)
    packed = np.empty(len(offsets), np.uint8)
    packing.pack(packed)
    assert np.array_equal(packed, before[places]) and np.array_equal(memory, before)
    assert packing.in_place is None or np.array_equal(packing.in_place, packed)
    packed[:] = 0
    packing.packer(packed)()
    assert np.array_equal(packed, before[places])
    if len(set(offsets)) < len(offsets):
        return

    unpacked = before.copy()
    unpacked[places] = wire
    packing.unpack(wire)
    assert np.array_equal(memory, unpacked)
    memory[:] = before
    packing.unpacker(wire)()
    assert np.array_equal(memory, unpacked)

    if element is not None and element.kind in "iufc":
        memory = before.copy()
        HostPacking(layout, memory, origin).unpack_reduce(wire, np.add, element)
        reduced = before.copy()
        reduced[places] = (before[places].view(element) + wire.view(element)).view(np.uint8)
        assert np.array_equal(memory, reduced)


@pytest.mark.slow
@settings(reproducible, max_examples=5000)
@given(types(), st.integers(0, 3), st.integers(1, 64))
def test_random_types(made: Built, count: int, limit: int) -> None:
    check(made, count, limit)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@settings(reproducible, max_examples=100_000, derandomize=False)
@given(types(depth=4), st.integers(0, 4), st.integers(1, 200))
def test_many_random_types(made: Built, count: int, limit: int) -> None:
    check(made, count, limit)


@st.composite
def views(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Arrays with any strides, within a memory."""
    dtype = np.dtype(draw(st.sampled_from(["u1", "i2", "f4", "c16", "V3"])))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    strides = [draw(st.integers(-40, 40)) for _ in shape]
    ends = [(count - 1) * stride for count, stride in zip(shape, strides, strict=True) if count > 1]
    low, high = sum(end for end in ends if end < 0), sum(end for end in ends if end > 0)
    memory = np.random.default_rng(len(shape)).integers(0, 256, high - low + dtype.itemsize + 9, np.uint8)
    return np.ndarray(shape, dtype, memory, 3 - low, strides)


@settings(reproducible, max_examples=1000)
@given(views(), st.integers(1, 64))
def test_arrays_with_any_strides(array: np.ndarray[Any, Any], limit: int) -> None:
    """Packed as numpy copies them; and the same datatype as built step by step."""
    packing, expected = packing_of(array), np.frombuffer(array.tobytes(), np.uint8)
    packed = np.empty(array.nbytes, np.uint8)
    packing.pack(packed)
    assert np.array_equal(packed, expected)
    datatype = dt.of_strides(array.shape, array.strides, array.dtype)
    assert datatype.layout == packing.layout == layout_of(array.shape, array.strides, array.itemsize)
    places = offsets_of(packing.layout)
    assert packing.overlaps == (len(set(places)) < len(places))
    wire = 255 - packed
    if packing.overlaps:
        return
    edge = 0
    for tile in packing.tiles(limit):
        tile.unpack(wire[edge : edge + tile.nbytes])
        edge += tile.nbytes
    assert edge == array.nbytes and array.tobytes() == wire.tobytes()


def test_items_in_a_buffer() -> None:
    columns = dt.resized(dt.vector(3, 1, 4, "f4"), 0, 4)  # of three rows of four
    table = np.arange(12, dtype=np.float32).reshape(3, 4)
    two = columns.over(table, count=2, offset=4)
    assert two.pack().tolist() == [1, 5, 9, 2, 6, 10]
    two.unpack(np.full(6, 10, np.float32), np.add)
    assert table.tolist() == [[0, 11, 12, 3], [4, 15, 16, 7], [8, 19, 20, 11]]
    two.unpack(np.zeros(6, np.float32))
    assert table.tolist() == [[0, 0, 0, 3], [4, 0, 0, 7], [8, 0, 0, 11]]
    with pytest.raises(ValueError, match="larger buffer"):
        columns.over(table, count=3, offset=8).pack()
    with pytest.raises(ValueError, match="larger buffer"):
        columns.over(table, offset=-4).pack()
    with pytest.raises(ValueError, match="some bytes twice"):
        dt.hvector(2, 1, 2, "f4").over(table).unpack(np.zeros(2, np.float32))
    with pytest.raises(TypeError, match="several dtypes"):
        dt.struct([1, 1], [0, 4], ["f4", "i4"]).over(table).unpack(np.zeros(8, np.uint8), np.add)
    with pytest.raises(ValueError, match="24 bytes, the array 20"):
        two.unpack(np.zeros(5, np.float32))
    table.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        two.datatype.over(table).unpack(np.zeros(3, np.float32))


# -- the form, by brute force ------------------------------------------------------------------------------------------


def runs_of(offsets: Sequence[int]) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for offset in offsets:
        if runs and sum(runs[-1]) == offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((offset, 1))
    return tuple(runs)


def smallest_period(offsets: Sequence[int]) -> int | None:
    for period in range(1, len(offsets)):
        moved = {late - early for early, late in zip(offsets, offsets[period:], strict=False)}
        if len(offsets) % period == 0 and len(moved) == 1:
            return period
    return None


@lru_cache(maxsize=1 << 16)
def is_box(starts: tuple[int, ...]) -> bool:
    count = len(starts)
    if count == 1:
        return True
    for inner in range(1, count):
        if (
            count % inner == 0
            and len({b - a for a, b in zip(starts, starts[inner:], strict=False)}) == 1
            and is_box(starts[:inner])
        ):
            return True
    return False


def one_box(runs: Sequence[tuple[int, int]]) -> bool:
    return len({size for _, size in runs}) == 1 and is_box(tuple(start for start, _ in runs))


def fewest_boxes(runs: Sequence[tuple[int, int]]) -> int:
    """Over all ways to cut the list."""
    fewest = [0] + [len(runs)] * len(runs)
    for end in range(1, len(runs) + 1):
        for begin in range(end):
            if one_box(runs[begin:end]):
                fewest[end] = min(fewest[end], fewest[begin] + 1)
    return fewest[-1]


def check_form(layout: Layout, offsets: list[int]) -> None:
    assert offsets_of(layout) == offsets
    runs = runs_of(offsets)
    if not offsets:
        assert layout == Several()
    elif len(runs) == 1:
        assert layout == Run(*runs[0])
    elif period := smallest_period(offsets):
        assert isinstance(layout, Repeat)
        assert (layout.count, layout.stride) == (len(offsets) // period, offsets[period] - offsets[0])
        check_form(layout.body, offsets[:period])
    else:
        assert isinstance(layout, Several) and len(layout.parts) == fewest_boxes(runs)
        first = len(runs_of(offsets_of(layout.parts[0])))  # of several ways, the one with the longest first box
        for longer in range(first + 1, len(runs) + 1):
            assert not one_box(runs[:longer]) or 1 + fewest_boxes(runs[longer:]) > len(layout.parts)
        for part in layout.parts:
            check_form(part, offsets_of(part))
            assert len(strided_blocks(part)) == 1


pieces = st.tuples(st.integers(-6, 12), st.integers(1, 3))


@st.composite
def patterns(draw: st.DrawFn) -> list[int]:
    """Lists that are often regular, or nearly so."""
    some = draw(st.lists(pieces, min_size=1, max_size=5))
    offsets = [start + byte for start, size in some for byte in range(size)]
    for _ in range(draw(st.integers(0, 3))):
        stride = draw(st.integers(-6, 16))
        offsets = [offset + turn * stride for turn in range(draw(st.integers(1, 3))) for offset in offsets]
        if draw(st.integers(0, 3)) == 0:
            offsets += [start + byte for start, size in [draw(pieces)] for byte in range(size)]
        if draw(st.integers(0, 5)) == 0:
            offsets = offsets[draw(st.integers(0, 2)) :]
    return offsets[:60]


def check_pattern(offsets: list[int], cuts: list[int]) -> None:
    starts = np.array(offsets, np.int64)
    layout = of_runs(starts, np.ones(len(starts), np.int64))
    check_form(layout, offsets)
    cut_runs = []
    for start, size in runs_of(offsets):
        edges = sorted({0, size, *(at for at in cuts if at < size)})
        cut_runs += [(start + low, high - low) for low, high in itertools.pairwise(edges)]
    starts_of, sizes = [start for start, _ in cut_runs], [size for _, size in cut_runs]
    cut = dt.hindexed(sizes, starts_of, "u1")
    assert cut.layout == layout and hash(cut.layout) == hash(layout)


@settings(reproducible, max_examples=2000)
@given(patterns(), st.lists(st.integers(1, 4), max_size=2))
def test_the_form_is_the_one_that_is_defined(offsets: list[int], cuts: list[int]) -> None:
    check_pattern(offsets, cuts)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@settings(reproducible, max_examples=100_000, derandomize=False)
@given(patterns(), st.lists(st.integers(1, 4), max_size=2))
def test_the_form_of_many_lists(offsets: list[int], cuts: list[int]) -> None:
    check_pattern(offsets, cuts)


@settings(reproducible, max_examples=500)
@given(patterns(), st.integers(0, 5))
def test_long_lists_have_one_form_too(offsets: list[int], exact: int) -> None:
    """Beyond `EXACT_RUNS` each box is as long as it gets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canonical, "EXACT_RUNS", exact)
        layout = of_runs(np.array(offsets, np.int64), np.ones(len(offsets), np.int64))
    assert offsets_of(layout) == offsets
    if isinstance(layout, Several):
        assert smallest_period(offsets) is None
        runs = runs_of(offsets)
        for part in layout.parts:
            assert len(strided_blocks(part)) == 1
            boxes = [length for length in range(1, len(runs) + 1) if one_box(runs[:length])]
            assert len(runs_of(offsets_of(part))) == max(boxes)
            runs = runs[max(boxes) :]


@settings(reproducible, max_examples=300)
@given(st.lists(pieces, min_size=2, max_size=20), st.integers(2, 400), st.integers(-30, 200), st.booleans())
def test_long_repetitions_are_found(runs: list[tuple[int, int]], times: int, stride: int, touching: bool) -> None:
    """Also where each repetition goes on where the one before has ended."""
    if touching:
        stride = sum(runs[-1]) - runs[0][0]
    starts = np.array([start for start, _ in runs], np.int64)
    sizes = np.array([size for _, size in runs], np.int64)
    body = of_runs(starts, sizes)
    moved = (np.arange(times)[:, None] * stride + starts).reshape(-1)
    written = of_runs(moved, np.tile(sizes, times))
    assert written == canonical.repeat(body, times, stride)
    split = times // 2 + 1
    halves = [
        canonical.repeat(body, split, stride),
        canonical.repeat(body, times - split, stride).shifted(split * stride),
    ]
    assert canonical.concatenate(halves) == written


# -- said outright -----------------------------------------------------------------------------------------------------


def test_one_layout_however_it_is_built() -> None:
    roads = [
        dt.vector(3, 2, 5, "f4"),
        dt.hvector(3, 2, 20, "f4"),
        dt.indexed([2, 2, 2], [0, 5, 10], "f4"),
        dt.indexed_block(2, [0, 5, 10], "f4"),
        dt.hindexed([1, 1, 2, 2], [0, 4, 20, 40], "f4"),
        dt.hvector(3, 1, 20, dt.contiguous(2, "f4")),
        dt.struct([2, 4], [0, 20], ["f4", dt.resized(dt.contiguous(1, "f4"), 0, 4)]),
        dt.subarray([3, 5], [3, 2], [0, 0], "f4"),
        dt.subarray([5, 3], [2, 3], [0, 0], "f4", "F"),
    ]
    assert {one.layout for one in roads[:6]} == {roads[0].layout}
    assert roads[0].layout == Repeat(3, 20, Run(0, 8)) == roads[7].layout == roads[8].layout
    assert roads[6].layout != roads[0].layout
    assert len(set(roads[:6])) == 1 and roads[0] != roads[7], "the extent counts, too"
    assert dt.vector(3, 2, 5, "i4") != roads[0], "and the element"


def test_order_counts() -> None:
    assert dt.hvector(3, 1, -4, "f4").layout != dt.hvector(3, 1, 4, "f4").layout
    assert dt.hindexed([1, 1], [4, 0], "f4").layout == dt.hvector(2, 1, -4, "f4").layout.shifted(4)


def test_large_regular_types_cost_nothing() -> None:
    wide = dt.vector(1 << 40, 1, 2, "f4")
    assert (wide.size, wide.extent) == (1 << 42, (1 << 43) - 4)
    assert wide.blocks == (dt.StridedBlock(0, 0, 4, (dt.Dim(1 << 40, 8, 4),)),) and not wide.overlaps
    cube = dt.subarray([1 << 20] * 3, [1 << 19] * 3, [1] * 3, "u1")
    assert cube.size == 1 << 57 and not cube.overlaps and len(cube.blocks) == 1
    column = dt.contiguous(1 << 15, dt.resized(dt.vector(1 << 40, 1, 1 << 15, "u1"), 0, 1))  # a transpose
    assert column.size == 1 << 55 and not column.overlaps
    pair = dt.resized(dt.struct([1, 1], [0, 8], ["f8", "i4"]), 0, 16)
    many = dt.contiguous(1 << 40, dt.resized(dt.hindexed([1, 2], [0, 11], "u1"), 0, 16))
    assert not many.overlaps and len(many.blocks) == 2
    assert dt.vector(1 << 20, 1 << 10, 1 << 11, pair).size == 12 << 30
    assert dt.hvector(1 << 40, 1, 0, "f4").overlaps and dt.hvector(1 << 40, 1, 3, "f4").overlaps
    braided = dt.hvector(5, 1, 8, dt.hvector(1 << 40, 1, 1000, dt.hvector(2, 1, 12, "f4")))
    assert (
        not braided.overlaps and dt.hvector(1 << 40, 1, 100, dt.hvector(3, 1, 8, dt.hvector(2, 1, 16, "f4"))).overlaps
    )
    assert next(iter(tiles(wide.layout, 1 << 10))) == (0, Repeat(256, 8, Run(0, 4)))


@pytest.mark.parametrize(
    "build",
    [
        lambda: dt.contiguous(MAX_BYTES + 1, "u1"),
        lambda: dt.hvector(2, 1, MAX_BYTES, "u1"),
        lambda: dt.hvector(2, 1, -MAX_BYTES - 1, "u1"),
        lambda: dt.vector(1 << 40, 1, 1 << 40, "u1"),
        lambda: dt.indexed([1], [MAX_BYTES], "f8"),
        lambda: dt.indexed([1, 1], [0, 1 << 61], "f8"),
        lambda: dt.indexed([1, 1], [0, 1 << 70], "f8"),
        lambda: dt.hindexed([1 << 60, 1], [0, 0], "f8"),
        lambda: dt.hindexed(np.array([1], "u8"), np.array([(1 << 64) - 8], "u8"), "f8"),
        lambda: dt.hindexed([1, 1], [MAX_BYTES, 0], dt.hvector(2, 1, 1 << 40, "u1")),
        lambda: dt.struct([1, 1], [0, 1 << 70], ["u1", "u1"]),
        lambda: dt.struct([1], [MAX_BYTES], ["u1"]),
        lambda: dt.subarray([1 << 40] * 2, [1, 1], [0, 0], "u1"),
        lambda: dt.resized("u1", 1, MAX_BYTES),
        lambda: dt.contiguous(2, dt.resized("u1", 0, MAX_BYTES)).items(2),
        lambda: dt.hindexed([1, 1, 1], [-MAX_BYTES, MAX_BYTES - 1, -MAX_BYTES], "u1"),
        lambda: dt.hindexed([MAX_BYTES, MAX_BYTES], [-MAX_BYTES, -1], "u1"),
        lambda: dt.struct([1, 1], [-MAX_BYTES, MAX_BYTES - 4], ["f4", "f4"]),
        lambda: dt.resized("u1", -MAX_BYTES, 2 * MAX_BYTES),
    ],
)
def test_offsets_stay_within_64_bits(build: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=f"{MAX_BYTES} bytes at most"):
        build()


def test_as_far_as_they_may_reach() -> None:
    whole = dt.contiguous(MAX_BYTES, "u1")
    assert whole.blocks == (dt.StridedBlock(0, 0, MAX_BYTES),) and not whole.overlaps
    half = MAX_BYTES // 2
    both = dt.hindexed([half // 2, half // 2], [-half, half - half // 2], "u1")
    assert (both.lb, both.extent, both.size) == (-half, MAX_BYTES, half)
    assert both.layout == Repeat(2, MAX_BYTES - half // 2, Run(-half, half // 2)) and not both.overlaps
    ends = dt.struct([1, 2, 1], [-half, 0, half - 1], ["u1", "u1", "u1"])
    assert len(ends.blocks) == 3 and ends.true_extent == MAX_BYTES and not ends.overlaps


def test_numbers_of_numpy_do_not_overflow() -> None:
    few = np.int32(1 << 20)
    assert dt.vector(few, 1, few, "f8").extent == ((1 << 20) - 1 << 23) + 8
    assert dt.subarray([few, few], [few, np.int8(1)], [np.uint8(0), 1], "f4") == dt.subarray(
        [1 << 20, 1 << 20], [1 << 20, 1], [0, 1], "f4"
    )
    assert dt.resized("f4", np.int8(-100), np.uint8(200)).ub == 100
    start = dt.struct([np.int8(1)], [np.int8(127)], [dt.contiguous(100, "f4")])
    assert start.ub == 527


def test_too_many_pieces() -> None:
    chance = np.random.default_rng(0)
    starts = np.cumsum(chance.integers(5, 9, MAX_RUNS + 1))
    for build in (
        lambda: dt.hindexed_block(4, starts, "u1"),
        lambda: dt.struct([1, 1], [0, 3], [dt.vector(MAX_RUNS, 1, 2, "f4")] * 2),
        lambda: dt.hindexed([1 << 50, 1 << 50], [0, 3], dt.resized("u1", 0, 0)),
    ):
        with pytest.raises(ValueError, match=f"{MAX_RUNS} separate pieces at most"):
            build()


def test_too_many_dimensions() -> None:
    datatype = dt.as_datatype("u2")
    for _ in range(MAX_DEPTH):
        datatype = dt.hvector(2, 1, 2 * datatype.true_extent - 1, datatype)
    assert datatype.layout.depth == MAX_DEPTH
    with pytest.raises(ValueError, match="nested dimensions at most"):
        dt.hvector(2, 1, 2 * datatype.true_extent - 1, datatype)


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: dt.contiguous(-1, "u1"), ValueError, "count must not be negative"),
        (lambda: dt.vector(1, -1, 1, "u1"), ValueError, "blocklength must not be negative"),
        (lambda: dt.hindexed([1, -2], [0, 1], "u1"), ValueError, "must not be negative, as -2"),
        (lambda: dt.hindexed([1], [0, 1], "u1"), ValueError, "1 blocklengths and 2 displacements"),
        (lambda: dt.struct([1], [0, 1], ["u1"]), ValueError, "as many of each"),
        (lambda: dt.subarray([4], [3], [2], "u1"), ValueError, "3 items from 2 on are not within a dimension of 4"),
        (lambda: dt.subarray([], [], [], "u1"), ValueError, "not empty"),
        (lambda: dt.subarray([4], [3], [1], "u1", "A"), ValueError, "order"),
        (lambda: dt.hvector(2, 1, 2.5, "u1"), TypeError, "stride must be a whole number, not 2.5"),
        (lambda: dt.contiguous(2.0, "u1"), TypeError, "count must be a whole number"),
        (lambda: dt.indexed([1.5], [0], "u1"), TypeError, "blocklengths must be a list of whole numbers"),
        (lambda: dt.indexed([True], [0], "u1"), TypeError, "blocklengths must be a list of whole numbers"),
        (lambda: dt.struct([1], [0.5], ["u1"]), TypeError, "displacement must be a whole number"),
        (lambda: dt.resized("u1", 0, "1"), TypeError, "extent must be a whole number"),
        (lambda: dt.as_datatype(None), TypeError, "None is no datatype"),
        (lambda: dt.as_datatype("O"), TypeError, "Python objects"),
        (lambda: dt.as_datatype([("a", "u1"), ("b", "O")]), TypeError, "Python objects"),
    ],
)
def test_what_is_refused(build: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"gsizes": [8]}, "equally long"),
        ({"rank": 6}, "none of rank 6 of 6"),
        ({"psizes": [2, 2]}, "none of rank 1 of 6"),
        ({"gsizes": [8, 0]}, "0 items cannot be dealt out"),
        ({"dargs": [3, 0]}, "in pieces of 0"),
        ({"dargs": [3, None]}, "2 blocks of 3 are not all of 8"),
        ({"distribs": ["none", "cyclic"]}, "must have 1 process, not 2"),
        ({"distribs": ["block", "spread"]}, "spread"),
        ({"order": "A"}, "order"),
    ],
)
def test_arrays_that_cannot_be_dealt_out(changed: dict[str, Any], text: str) -> None:
    given = {"size": 6, "rank": 1, "gsizes": [8, 9], "distribs": ["block", "cyclic"], "dargs": [None, 2]}
    given |= {"psizes": [2, 3], "order": "C"}
    assert darray(old="f4", **given).size == 4 * 4 * 3
    with pytest.raises(ValueError, match=text):
        darray(old="f4", **{**given, **changed})


def test_bounds_are_those_of_the_standard() -> None:
    """Where Open MPI 5 has others."""
    inner = dt.struct([1, 1], [0, 4], ["i4", "u1"])
    assert inner.extent == 8
    outer = dt.struct([1, 1], [0, -1], [inner, "u1"])
    assert (outer.lb, outer.extent) == (-1, 8), "from -1 to 5, padded; not from -1 to 8"
    late = dt.struct([1, 1], [0, 100], [dt.contiguous(0, "i4"), "u1"])
    assert (late.lb, late.extent) == (100, 1), "what is empty has no bounds"
    marked = dt.struct([1, 1], [10, 100], [dt.resized(dt.contiguous(0, "i4"), -3, 7), "u1"])
    assert (marked.lb, marked.extent) == (7, 7), "unless it was given them"
    again = dt.contiguous(3, dt.resized(dt.resized("u1", -8, 90), -3, 7))
    assert (again.lb, again.extent) == (-3, 21)


@pytest.mark.parametrize("element", ["i1", "f4", "c16"])
def test_runs_too_long_for_one_element_of_numpy(monkeypatch: pytest.MonkeyPatch, element: str) -> None:
    monkeypatch.setattr(hostcopies, "MAX_VOID", 64)
    for count in (5, 7, 31):
        layout = dt.hvector(3, count, 1000 + count, element).layout
        hostcopies.host_copies.cache_clear()
        check_packing(layout, offsets_of(layout), np.dtype(element))
    hostcopies.host_copies.cache_clear()
