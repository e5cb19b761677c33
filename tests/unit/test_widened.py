"""Short runs that are packed as if they were longer: the bytes are the same, and none is read or written beyond."""

from __future__ import annotations

import random

import numpy as np
import pytest

from collcomm.datatypes import subarray
from collcomm.datatypes.hostcopies import host_copies
from collcomm.datatypes.layout import Layout
from collcomm.datatypes.packing import HostPacking
from collcomm.datatypes.strides import packing_of
from collcomm.datatypes.widened import AT_ONCE, WidenedCopy

SIZES = [size for size in range(3, 16) if size not in (4, 8)]


def is_widened(layout: Layout) -> bool:
    return any(isinstance(copy, WidenedCopy) for copy in host_copies(layout))


def check(packing: HostPacking, expected: bytes) -> None:
    size, guard = packing.nbytes, 40
    for turn in range(2):
        room = np.full(size + 2 * guard, 255 * turn, np.uint8)
        target = room[guard : guard + size]
        if turn:
            packing.pack(target)
        else:
            pack = packing.packer(target)
            pack()
            target[:] = 0
            pack()
        assert target.tobytes() == expected
        assert (room[:guard] == 255 * turn).all() and (room[guard + size :] == 255 * turn).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "shape",
    [(64,), (1000,), (AT_ONCE + 1,), (2 * AT_ONCE + 5,), (9, 40), (3, 2, 50), (2, AT_ONCE + 9), (90, 70), (5, 1, 100)],
)
def test_any_box_of_short_runs(size: int, shape: tuple[int, ...]) -> None:
    """Which end where memory ends."""
    rng = random.Random(size)
    strides, reach = [], size
    for count in reversed(shape):
        stride = max(reach, 16) + rng.randrange(20)
        strides.insert(0, stride)
        reach = stride * (count - 1) + reach
    memory = np.random.default_rng(size).integers(0, 256, reach + 3, np.uint8)[3:]
    runs = np.lib.stride_tricks.as_strided(memory, (*shape, size), (*strides, 1))
    packing = packing_of(runs)
    assert is_widened(packing.layout) and packing.memory.size == reach
    check(packing, runs.tobytes())
    back = packing_of(np.lib.stride_tricks.as_strided(np.zeros(reach, np.uint8), (*shape, size), (*strides, 1)))
    back.unpack(np.frombuffer(runs.tobytes(), np.uint8))
    touched = np.zeros(reach, bool)
    np.lib.stride_tricks.as_strided(touched, (*shape, size), (*strides, 1))[...] = True
    np.testing.assert_array_equal(back.memory, np.where(touched, memory, 0))


def test_runs_side_by_side_that_are_packed_one_after_the_other() -> None:
    memory = np.random.default_rng(7).integers(0, 256, 60 * 1000, np.uint8)
    runs = np.lib.stride_tricks.as_strided(memory, (3, 1000, 12), (16, 60, 1))
    packing = packing_of(runs)
    assert is_widened(packing.layout)
    check(packing, runs.tobytes())
    kept, data = memory.copy(), np.arange(36_000, dtype=np.uint16).astype(np.uint8)
    packing.unpack(data)
    assert runs.tobytes() == data.tobytes()
    runs[...] = np.lib.stride_tricks.as_strided(kept, (3, 1000, 12), (16, 60, 1))
    np.testing.assert_array_equal(memory, kept)


@pytest.mark.parametrize("size", [5, 6, 12])
def test_runs_in_other_directions_or_too_close_stay_as_they_are(size: int) -> None:
    memory = np.arange(5000, dtype=np.uint16).view(np.uint8)
    for runs in (
        np.lib.stride_tricks.as_strided(memory[-size:], (200, size), (-20, 1)),
        np.lib.stride_tricks.as_strided(memory, (4, 200, size), (0, 20, 1)),
        np.lib.stride_tricks.as_strided(memory[: 200 + size], (200, size), (1, 1)),
        np.lib.stride_tricks.as_strided(memory, (63, size), (20, 1)),
    ):
        packing = packing_of(runs)
        assert not is_widened(packing.layout)
        check(packing, runs.tobytes())


def test_points_of_a_table_are_summed_as_they_are() -> None:
    table = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    packing = packing_of(table[:, :3])
    assert is_widened(packing.layout)
    expected = table.copy()
    expected[:, :3] += 5
    packing.unpack_reduce(np.full(3000, 5, np.float32).view(np.uint8), np.add, np.dtype(np.float32))
    np.testing.assert_array_equal(table, expected)


def test_a_face_of_a_halo_within_a_struct_of_pieces() -> None:
    whole = np.random.default_rng(1).random((40, 50, 60), np.float32)
    face = whole[2:38, 3:47, 57:]
    packing = HostPacking(
        subarray(whole.shape, face.shape, (2, 3, 57), np.float32).layout, whole.view(np.uint8).reshape(-1)
    )
    assert is_widened(packing.layout)
    check(packing, face.tobytes())
    for tile in packing.tiles(4000):
        tile.pack(np.empty(tile.nbytes, np.uint8))
