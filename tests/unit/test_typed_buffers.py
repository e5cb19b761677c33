"""Items of datatypes in buffers: what may be a buffer, packing and unpacking, and what is refused."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from collcomm import datatypes
from collcomm.datatypes import contiguous, of_array, resized, struct, subarray, vector

equal = np.testing.assert_array_equal


def test_columns_there_and_back() -> None:
    table = np.arange(60.0).reshape(10, 6)
    column = resized(vector(10, 2, 6, np.float64), 0, 16)
    items = column.over(table, count=3)
    packed = items.pack()
    assert packed.dtype == np.float64 and items.nbytes == table.nbytes
    equal(packed.reshape(3, 10, 2), table.reshape(10, 3, 2).swapaxes(0, 1))
    copy = np.zeros_like(table)
    column.over(copy, count=3).unpack(packed)
    equal(copy, table)
    column.over(copy, count=1, offset=16).unpack(np.ones(20), np.add)
    table[:, 2:4] += 1
    equal(copy, table)


def test_one_row_is_no_copy() -> None:
    array = np.arange(12, dtype=np.int32)
    packed = contiguous(3, np.int32).over(array, count=4).pack()
    assert packed.base is not None and np.shares_memory(packed, array)
    out = np.empty(6, np.int32)
    assert subarray([4, 3], [2, 3], [1, 0], np.int32).over(array).pack(out) is out
    equal(out, array[3:9])


def test_buffers_of_all_kinds() -> None:
    pair = vector(2, 1, 2, np.uint16)
    data = np.arange(4, dtype=np.uint16)
    buffers: list[Any] = [data, data.tobytes(), bytearray(data.tobytes()), memoryview(data), data.reshape(2, 2)]
    torch = pytest.importorskip("torch", reason="torch is not installed")
    buffers.append(torch.from_numpy(data.view(np.int16)))
    for buffer in buffers:
        equal(pair.over(buffer).pack(), [0, 2])
    fortran = np.asfortranarray(np.arange(6, dtype=np.uint16).reshape(2, 3))
    equal(pair.over(fortran).pack(), [0, 1])  # as its bytes lie
    tensor = torch.arange(12, dtype=torch.bfloat16).reshape(3, 4)[:, 1:3]
    found = of_array(tensor)
    assert found == of_array(np.zeros((3, 4), ml_dtypes.bfloat16)[:, 1:3]) == vector(3, 2, 4, ml_dtypes.bfloat16)
    assert of_array(np.zeros((4, 5), "f4")[::-1, ::2]).size == 48


def test_structures() -> None:
    record = np.dtype([("id", "i4"), ("position", "f8", 3), ("tag", "u1")], align=True)
    table = np.zeros(5, record)
    table["position"] = np.arange(15).reshape(5, 3)
    wanted = resized(struct([1], [record.fields["position"][1]], [record["position"]]), 0, record.itemsize)
    equal(wanted.over(table, count=5).pack(), np.arange(15))
    whole = datatypes.as_datatype(record)
    assert whole.element is None and whole.size == 29 and whole.extent == record.itemsize
    packed = whole.over(table, count=5).pack()
    assert packed.dtype == np.uint8 and packed.size == 145
    copy = np.zeros_like(table)
    whole.over(copy, count=5).unpack(packed)
    assert (copy == table).all()


def test_what_is_refused() -> None:
    column = vector(4, 1, 4, np.float32)
    table = np.zeros((4, 4), np.float32)
    with pytest.raises(ValueError, match="reaches from byte 16 to 68 of a buffer of 64 bytes"):
        column.over(table, offset=16).pack()
    with pytest.raises(ValueError, match="from byte -4"):
        column.over(table, offset=-4).pack()
    with pytest.raises(ValueError, match="contiguous"):
        column.over(np.zeros((9, 9), np.float32)[:, ::2]).pack()
    with pytest.raises(TypeError, match="must be an array"):
        column.over("nothing").pack()
    with pytest.raises(ValueError, match="16 bytes, the array 12"):
        column.over(table).unpack(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="count"):
        column.over(table, count=-1)
    with pytest.raises(ValueError, match="read-only"):
        column.over(table.tobytes()).unpack(np.zeros(4, np.float32))
    twice = vector(3, 2, 1, np.float32)
    equal(twice.over(np.arange(4, dtype=np.float32)).pack(), [0, 1, 1, 2, 2, 3])
    with pytest.raises(ValueError, match="twice"):
        twice.over(table).unpack(np.zeros(6, np.float32))
    mixed = struct([1, 1], [0, 4], [np.float32, np.int32])
    with pytest.raises(TypeError, match="several dtypes"):
        mixed.over(table).unpack(np.zeros(2, np.float32), np.add)
    with pytest.raises(TypeError, match="Python objects"):
        datatypes.as_datatype(object)
    assert "16 bytes in 1 blocks" in repr(column)
