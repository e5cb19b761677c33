"""What a communicator owes those whose data does not lie in one row; part of the contract."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np

import collcomm
from collcomm import datatypes
from collcomm.datatypes.model import Method

equal = np.testing.assert_array_equal
WAIT_SECONDS = 30.0
SIZES = (7, 3000, 40_000)  # rows: a small array, some tiles, several blocks of a window


def _fields(rank: int, rows: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng((rank, rows)).integers(-1000, 1000, (rows, 8)).astype(np.float32)


def strides(comm: collcomm.Communicator) -> None:
    """Every kind with columns of tables as input and output."""
    n, me = comm.size, comm.rank
    for rows in SIZES:
        data = [_fields(rank, rows * n) for rank in range(n)]
        kept = data[me].copy()
        x, part = data[me][:, 1:4], slice(me * rows, (me + 1) * rows)
        total = reduce(np.add, data)[:, 1:4]
        every = np.concatenate([table[:, 1:4] for table in data])
        table = np.zeros((rows * n, 8), np.float32)
        out = table[:, ::-3]
        assert comm.all_reduce(x, out=out) is out
        equal(out, total)
        equal(comm.all_reduce(x, op="avg"), total / np.float32(n))
        assert not table[:, 0].any() and not table[:, 2].any() and not table[:, 3].any()
        equal(comm.all_reduce(x[::-1]), total[::-1])
        equal(data[me], kept)
        turned = np.zeros((3, rows * n), np.float32)
        comm.all_reduce(x, out=turned.T, op="max")
        equal(turned.T, reduce(np.maximum, data)[:, 1:4])
        mine = np.zeros((rows, 6), np.float32)
        comm.reduce_scatter(x, out=mine[:, ::2])
        equal(mine[:, ::2], total[part])
        assert not mine[:, 1::2].any()
        gathered = np.zeros((rows * n * n, 4), np.float32)
        comm.all_gather(x, out=gathered[:, 1:])
        equal(gathered[:, 1:], every)
        comm.all_to_all(x, out=out)
        equal(out, np.concatenate([other[part, 1:4] for other in data]))
        for root in {0, n - 1}:
            copy = x.copy("K") if me == root else np.zeros((3, rows * n), np.float32).T
            assert comm.broadcast(copy, root=root, out=copy) is copy
            equal(copy, data[root][:, 1:4])
            comm.reduce(x, root=root, out=out)
            equal(out, total if me == root else out)
            comm.gather(x, root=root, out=gathered[:, 1:])
            comm.scatter(x if me == root else None, root=root, out=mine[:, 1::2])
            equal(mine[:, 1::2], data[root][part, 1:4])
        in_place = data[me][:, 5:]
        assert comm.all_reduce(in_place, out=in_place) is in_place
        equal(in_place, reduce(np.add, [_fields(rank, rows * n) for rank in range(n)])[:, 5:])
        equal(data[me][:, :5], kept[:, :5])


def items(comm: collcomm.Communicator) -> None:
    """Every kind with a datatype: an item of it is a row."""
    n, me = comm.size, comm.rank
    for rows in SIZES:
        data = [_fields(rank, rows) for rank in range(n)]
        column = datatypes.vector(rows, 2, 8, np.float32)
        columns = datatypes.resized(column, 0, 8)
        x, total = data[me], reduce(np.add, data)
        equal(comm.all_reduce(x, datatype=column), total[:, :2].reshape(-1))
        out = np.full((rows, 8), -1, np.float32)
        assert comm.all_reduce(x, datatype=column, out=out) is out
        equal(out[:, :2], total[:, :2])
        assert (out[:, 2:] == -1).all()
        equal(
            comm.all_reduce(column.over(x, offset=8), out=column.over(out, offset=24)).pack(), total[:, 2:4].reshape(-1)
        )
        equal(out[:, 6:], total[:, 2:4])
        equal(comm.all_gather(x, datatype=column), np.stack([table[:, :2].reshape(-1) for table in data]))
        wide = np.zeros((rows, 2 * n), np.float32)
        pairs = datatypes.resized(datatypes.vector(rows, 2, 2 * n, np.float32), 0, 8)
        comm.all_gather(column.over(x), out=wide, datatype=pairs)
        equal(wide, np.concatenate([table[:, :2] for table in data], axis=1))
        mine = np.zeros((rows, 2), np.float32)
        one = datatypes.as_datatype(np.float32)
        comm.reduce_scatter(wide, datatype=pairs, out=one.over(mine, 2 * rows))
        equal(mine, data[me][:, :2] * n)
        comm.scatter(wide if me == 0 else None, datatype=pairs, out=columns.over(x, offset=16))
        equal(x[:, 4:6], data[me][:, :2])
        told = _fields(n - 1 if me == n - 1 else 0, rows)
        comm.broadcast(told, root=n - 1, datatype=column, out=told)
        equal(told[:, :2], _fields(n - 1, rows)[:, :2])
        equal(told[:, 2:], _fields(n - 1 if me == n - 1 else 0, rows)[:, 2:])
        handle = comm.send(x, (me + 1) % n, datatype=column, async_op=True)
        comm.recv(out, (me - 1) % n, datatype=column)
        handle.result(WAIT_SECONDS)
        equal(out[:, :2], data[(me - 1) % n][:, :2])
    comm.barrier()  # who leaves now might do so before the last message was taken


def lists(comm: collcomm.Communicator) -> None:
    """A layout of its own for each peer: a matrix of which each rank has some rows is turned, and pieces of all sorts."""
    n, me = comm.size, comm.rank
    for block in (1, 5, 300):
        whole = np.arange((n * block) ** 2, dtype=np.int64).reshape(n * block, n * block)
        rows, turned = whole[me * block : (me + 1) * block], np.zeros((block, n * block), np.int64)
        cut = [slice(rank * block, (rank + 1) * block) for rank in range(n)]
        out = [turned[:, part].T for part in cut]
        assert comm.all_to_all([rows[:, part] for part in cut], out=out) is out
        equal(turned, whole.T[cut[me]])
    table = np.arange(9 * n, dtype=np.float64).reshape(9, n) + 1000 * me
    ends = datatypes.struct([1, 1], [0, 8 * n * 8], [datatypes.resized(np.float64, 0, 8 * n)] * 2)  # of a column
    sent = [None if rank == me else ends.over(table, offset=8 * rank) for rank in range(n)]
    came = np.zeros((n, 2))
    comm.all_to_all(sent, out=[None if rank == me else came[rank] for rank in range(n)])
    for rank in range(n):
        first = me + 1000 * rank
        equal(came[rank], [0, 0] if rank == me else [first, first + 8 * n])


# rows, bytes of a run, bytes between
RUNS = ((1300, 1, 3), (700, 40, 1), (9, 700, 8), (300, 1000, 24), (700, 2048, 16), (40, 5001, 7), (3, 1 << 20, 4096))


def messages(comm: collcomm.Communicator) -> None:
    """send and recv of runs from a byte to a mebibyte, forwards, backwards and in no order; each end gathers, packs, or does what
    it finds best."""
    n, me, point = comm.size, comm.rank, comm._point
    ways = (lambda *_: Method.GATHER, lambda *_: Method.PACK, point.choose)
    for turn, (count, run, gap) in enumerate(RUNS):
        sent, came = (_bytes((me - back) % n, count, run + gap) for back in (0, 1))
        kept, shuffled = sent.copy(), np.random.default_rng(run).permutation(count)
        pieces = datatypes.hindexed_block(run, (shuffled * (run + gap)).tolist(), np.uint8)
        for number in range(len(ways)):
            point.choose = ways[(number + me * turn) % len(ways)]  # not the same at all ends
            table = np.zeros((count, run + gap), np.uint8)
            _pass_on(comm, sent[:, :run], table[:, gap:], number)
            equal(table[:, gap:], came[:, :run])
            _pass_on(comm, sent[::-1, :run], table[:, gap:], 0)
            equal(table[:, gap:], came[::-1, :run])
            assert not table[:, :gap].any()
            _pass_on(comm, sent[:, :run], table[::-1, :run], 1)
            equal(table[::-1, :run], came[:, :run])
            row = np.zeros((count, run), np.uint8)
            _pass_on(comm, pieces.over(sent), row, 2)
            equal(row, came[shuffled, :run])
            _pass_on(comm, row, pieces.over(table), 3)  # on from there
            equal(table[shuffled, :run], _bytes((me - 2) % n, count, run + gap)[shuffled, :run])
        equal(sent, kept)
    point.choose = ways[-1]


def _bytes(rank: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng((rank, *shape)).integers(0, 256, shape, np.uint8)


def _pass_on(comm: collcomm.Communicator, x: Any, out: Any, tag: int) -> None:
    """``x`` to the next rank, what the one before sends to ``out``."""
    handle = comm.send(x, (comm.rank + 1) % comm.size, tag=tag, async_op=True)
    assert comm.recv(out=out, src=(comm.rank - 1) % comm.size, tag=tag) is out
    handle.result(WAIT_SECONDS)
