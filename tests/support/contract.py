"""What a communicator owes its callers, whatever carries the bytes: each check is a function of the communicator.

All ranks of a group call the same checks in the same order. They ask for nothing but a communicator, so that threads of one
process, ranks of an MPI job and any transport to come run the very same ones. `CONTRACT` names them all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import ml_dtypes
import numpy as np

import collcomm
from tests.support.samples import DTYPES, ops_for, reduced, sample
from tests.support.strided import items, lists, messages, strides

Comm = collcomm.Communicator
equal = np.testing.assert_array_equal
WAIT_SECONDS = 30.0


def raises(error: type[Exception], call: Callable[[], Any], *words: str) -> None:
    said = None
    try:
        call()
    except error as found:
        said = str(found)
    assert said is not None, f"{error.__name__} was not raised"
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} not in {said}"


def same_everywhere(comm: Comm, result: Any) -> None:
    """Every rank holds the same bits."""
    digests = comm.all_gather_object(hashlib.blake2b(np.ascontiguousarray(result).tobytes()).digest())
    assert len(set(digests)) == 1, "results differ in their bits"


# -- kinds, dtypes, sizes ----------------------------------------------------------------------------------------------


def reductions(comm: Comm, dtypes: Sequence[Any] = DTYPES) -> None:
    for dtype in map(np.dtype, dtypes):
        for op in ops_for(dtype):
            for size in (0, 1, 7, 1000):
                what = f"{op} of {size} {dtype.name}"
                inputs = [sample(rank, size, dtype) for rank in range(comm.size)]
                x = inputs[comm.rank].copy()
                expected = reduced(op, inputs)
                result = comm.all_reduce(x, op=op)
                equal(result, expected, what)
                equal(x, inputs[comm.rank], what)
                assert result.dtype == dtype, what
                assert comm.all_reduce(x, op=op, out=x) is x, what
                equal(x, expected, what)


def kinds(comm: Comm, sizes: Sequence[int] = (0, 1, 5, 4096), width: int = 3) -> None:
    """Every kind, from every root. ``sizes``: rows per rank, of ``width`` integers."""
    n, me = comm.size, comm.rank
    for rows in sizes:
        data = [np.random.default_rng((rank, rows)).integers(0, 99, (n * rows, width)) for rank in range(n)]
        total, own = reduce(np.add, data), slice(me * rows, (me + 1) * rows)
        equal(comm.all_reduce(data[me]), total)
        in_place = data[me].copy()
        assert comm.all_reduce(in_place, out=in_place) is in_place
        equal(in_place, total)
        equal(comm.reduce_scatter(data[me]), total[own])
        equal(comm.all_gather(data[me]), np.concatenate(data))
        equal(comm.all_to_all(data[me]), np.concatenate([block[own] for block in data]))
        for root in range(n):
            equal(comm.broadcast(data[me], root=root), data[root])
            told = data[me].copy()
            assert comm.broadcast(told, root=root, out=told) is told
            equal(told, data[root])
            given, gathered = comm.reduce(data[me], root=root), comm.gather(data[me], root=root)
            if me == root:
                equal(given, total)
                equal(gathered, np.concatenate(data))
            else:
                assert given is None and gathered is None
            mine = np.empty((rows, width), data[0].dtype)
            comm.scatter(data[me] if me == root else None, root=root, out=mine)
            equal(mine, data[root][own])
        comm.barrier()


def uneven(comm: Comm, scales: Sequence[int] = (1, 700)) -> None:
    """Blocks of different sizes, one of them empty, times each of ``scales``."""
    n, me = comm.size, comm.rank
    for scale in scales:
        counts = [scale * (3, 0, 5, 1)[rank % 4] for rank in range(n)]
        edges = np.concatenate(([0], np.cumsum(counts)))
        own = slice(edges[me], edges[me + 1])
        for dtype in (np.int32, ml_dtypes.bfloat16):
            blocks = [np.full((count, 2), rank, dtype) for rank, count in enumerate(counts)]
            equal(comm.all_gather(blocks[me], counts=counts), np.concatenate(blocks))
            gathered = comm.gather(blocks[me], root=n - 1, counts=counts)
            assert (gathered is None) == (me != n - 1)
            if gathered is not None:
                equal(gathered, np.concatenate(blocks))
        for dtype in (np.float64, np.float16):
            shape = (edges[-1], 2)
            inputs = [(np.arange(2 * edges[-1]) % 5 + rank).astype(dtype).reshape(shape) for rank in range(n)]
            total = reduced("sum", inputs)
            equal(comm.reduce_scatter(inputs[me], counts=counts), total[own])
            mine = np.empty((counts[me], 2), dtype)
            comm.scatter(total if me == 0 else None, out=mine, counts=counts)
            equal(mine, total[own])
        table = np.array([[scale * ((a * 3 + b * 5) % 4) for b in range(n)] for a in range(n)])
        x = np.concatenate([np.full(table[me, other], me * 10 + other) for other in range(n)])
        got = comm.all_to_all(x, send_counts=table[me], recv_counts=table[:, me])
        equal(got, np.concatenate([np.full(table[other, me], other * 10 + me) for other in range(n)]))


def large(comm: Comm) -> None:
    """In place and out of place give the same bits, and inputs stay as they are."""
    n, me = comm.size, comm.rank
    for dtype, size in ((np.float32, 1_500_001), (ml_dtypes.bfloat16, 400_001)):
        inputs = [np.random.default_rng(rank).standard_normal(size, np.float32).astype(dtype) for rank in range(n)]
        if dtype != np.float32:
            inputs = [(x * 4).round() for x in inputs]  # whole numbers: exact
        x, kept = inputs[me].copy(), inputs[me]
        made, out = comm.all_reduce(x), np.empty_like(x)
        equal(x, kept)
        assert comm.all_reduce(x, out=out) is out and comm.all_reduce(x, out=x) is x
        equal(made.view(np.uint8), out.view(np.uint8))
        equal(made.view(np.uint8), x.view(np.uint8))
        np.testing.assert_allclose(made.astype(np.float32), reduce(np.add, inputs).astype(np.float32), atol=1e-5)
        same_everywhere(comm, made)
        equal(comm.all_reduce(kept, op="max"), reduced("max", inputs))
        equal(comm.all_gather(kept), np.concatenate(inputs))


def bits(comm: Comm) -> None:
    """NaNs with different payloads, and the two zeros: a result depends on which operand stands left."""
    for size in (1, 100, 200_000):
        nan = np.full(size, 0x7FC00000 + comm.rank, np.uint32).view(np.float32)
        zero = np.full(size, -0.0 if comm.rank % 2 else 0.0, np.float32)
        for x in (nan, zero):
            for op in ("sum", "min"):
                same_everywhere(comm, comm.all_reduce(x, op=op))


def views_and_strides(comm: Comm) -> None:
    n, me = comm.size, comm.rank
    whole = np.arange(60, dtype=np.float32).reshape(6, 10)
    equal(comm.all_reduce(whole[:, ::2]), whole[:, ::2] * n)
    equal(comm.all_reduce(whole.T), whole.T * n)
    target = np.zeros((6, 20), np.float32)
    comm.all_reduce(whole, out=target[:, ::2])
    equal(target[:, ::2], whole * n)
    assert not target[:, 1::2].any()
    overlapping = np.arange(10, dtype=np.float64)
    comm.all_reduce(overlapping[:8], out=overlapping[2:])
    equal(overlapping[2:], np.arange(8) * n)
    swapped = np.arange(n) + 10 * me
    comm.all_to_all(swapped, out=swapped)
    assert swapped.tolist() == [10 * rank + me for rank in range(n)]
    summed = np.ones(3)
    comm.reduce(summed, out=summed)
    assert summed.tolist() == ([n] * 3 if me == 0 else [1.0] * 3)
    frozen = np.arange(2000.0)
    frozen.flags.writeable = False
    equal(comm.all_reduce(frozen), frozen * n)
    assert comm.all_reduce(np.float32(3.0)) == 3 * n
    assert comm.all_reduce(memoryview(bytearray(b"\x01\x02"))).tolist() == [n, 2 * n]


# -- the other ways to use a communicator ------------------------------------------------------------------------------


def asynchronous(comm: Comm) -> None:
    seen: list[int] = []
    handles = []
    for i in range(40):
        handle = comm.all_reduce(np.full(10 + 50_000 * (i % 3), i), async_op=True)
        handle.add_done_callback(lambda _, i=i: seen.append(i))
        handle.add_done_callback(lambda _: 1 / 0)  # a callback's fault is logged, and hurts nobody
        handles.append(handle)
    assert comm.all_reduce(np.array([7]))[0] == 7 * comm.size  # a synchronous call takes its place in the order
    for i, handle in enumerate(handles):
        assert handle.result(WAIT_SECONDS)[0] == i * comm.size and handle.done()
    assert seen == list(range(40))


def objects(comm: Comm) -> None:
    values = comm.all_gather_object({"rank": comm.rank, "text": "x" * comm.rank * 1000})
    assert [value["rank"] for value in values] == list(range(comm.size))
    assert comm.broadcast_object([1, "two"] if comm.rank == 1 else None, root=1) == [1, "two"]
    raises(TypeError, lambda: comm.all_gather_object({1, 2}), "pickle=True")
    assert comm.all_gather_object({comm.rank}, pickle=True) == [{rank} for rank in range(comm.size)]


def point_to_point(comm: Comm) -> None:
    me, n = comm.rank, comm.size
    big = np.full(3_000_000, me, np.int32)
    handle = comm.send(big, (me + 1) % n, async_op=True)
    out = np.empty_like(big)
    assert comm.recv(out, (me - 1) % n) is out
    handle.result(WAIT_SECONDS)
    assert (out == (me - 1) % n).all()
    tags = (5, 6, 2**32 - 1)
    if me == 0:
        for tag in tags:
            comm.send(np.array([tag]), 1, tag=tag)
        raises(collcomm.CollectiveMismatch, lambda: comm.recv(np.zeros(2), 1, tag=1), "sent 12 bytes")
    elif me == 1:
        for tag in (tags[2], *tags[:2]):  # not in the order of sending
            assert comm.recv(np.zeros(1, int), 0, tag=tag)[0] == tag
        comm.send(np.zeros(3, np.float32), 0, tag=1)
    comm.barrier()


def misfits(comm: Comm) -> None:
    """A message that does not fit is named and thrown away whole; the next one between the two arrives as it was sent."""
    for size in (0, 3, 130_000, 700_001):  # of eight bytes each: nothing, a frame, two, several
        for tag in (0, 9):
            wrong = collcomm.CollectiveMismatch
            if comm.rank == 0:
                for x in (np.ones(size), np.ones(size + 5), np.arange(size), np.ones(size)):
                    comm.send(x, 1, tag=7)
                comm.send(np.arange(1000), 1, tag=tag)
            elif comm.rank == 1:
                out = np.zeros(size)
                equal(comm.recv(out, 0, tag=7), np.ones(size))
                raises(wrong, lambda: comm.recv(out, 0, tag=7), f"sent {8 * size + 40} bytes", f"expects {8 * size}")
                raises(wrong, lambda: comm.recv(out, 0, tag=7), f"sent {8 * size} bytes of another dtype")
                equal(out, np.ones(size))
                if tag:  # the last of the four waits until it is asked for
                    equal(comm.recv(np.zeros(1000, int), 0, tag=tag), np.arange(1000))
                raises(wrong, lambda: comm.recv(np.zeros(size + 1), 0, tag=7), f"sent {8 * size} bytes")
                if not tag:
                    equal(comm.recv(np.zeros(1000, int), 0, tag=tag), np.arange(1000))
    comm.barrier()


def splitting(comm: Comm) -> None:
    even, odd = comm.split(range(0, comm.size, 2)), comm.split(range(1, comm.size, 2))
    part = even or odd
    assert part is not None and (even is None) != (odd is None)
    assert part.size == (comm.size + (even is not None)) // 2 and part.rank == comm.rank // 2
    for size in (1, 100_000):
        expected = sum(range(comm.rank % 2, comm.size, 2))
        assert (part.all_reduce(np.full(size, comm.rank)) == expected).all()
    if part.size > 1:
        again = part.split([1])
        assert (again is not None) == (part.rank == 1)
        if part.rank == 0:
            part.send(np.array([3.0]), 1)
        if part.rank == 1:
            assert part.recv(np.zeros(1), 0)[0] == 3
    state = {"w": np.full(1000, part.rank, np.float32)}
    part.sync(state, revision=part.rank)
    assert (state["w"] == part.size - 1).all()
    raises(ValueError, part.step, "step")
    comm.barrier()
    part.close()


def shared_state(comm: Comm) -> None:
    state = {"w": np.full(300_000, 5.0 if comm.rank else 0.0, np.float32)}
    report = comm.sync(state, revision=3 if comm.rank else None)
    assert report.revision == 3 and (state["w"] == 5).all() and report.changed == (comm.rank == 0)
    handle = comm.sync(state, revision=4, async_op=True)
    for _ in range(10):
        comm.all_reduce(np.ones(10))
    assert handle.result(WAIT_SECONDS).revision == 4
    before = comm.view.epoch
    assert comm.step().epoch == before


def mismatches(comm: Comm) -> None:
    """Everybody is told who called something else, arrays stay as they were, and the group goes on."""
    me, last = comm.rank, comm.size - 1
    name = comm.view[last].name
    wrong = collcomm.CollectiveMismatch
    for size in (3, 5000):
        x = np.ones(size, np.float32)
        odd = (lambda: comm.all_reduce(x, op="max")) if me == last else (lambda: comm.all_reduce(x))
        raises(wrong, odd, f"{name} called something else", "all_reduce(max, float32")
        assert (x == 1).all()
        odd = (lambda: comm.barrier()) if me == last else (lambda: comm.all_reduce(x, out=x))
        raises(wrong, odd, f"{name} called something else", "barrier(")
        y = np.ones(size + (me == last), np.float64)
        raises(wrong, lambda y=y: comm.broadcast(y), f"{name} called something else", f"{size + 1} elements")
        assert (comm.all_reduce(x) == comm.size).all()
    sends, receives = [1] * comm.size, [1] * comm.size
    if me == last:
        receives[0] = 2
    x = np.ones(comm.size)
    raises(wrong, lambda: comm.all_to_all(x, send_counts=sends, recv_counts=receives), f"{name} received data")
    assert comm.all_reduce(np.ones(1))[0] == comm.size


def reverse_order(comm: Comm) -> None:
    """Two communicators in use at once, each by a thread of its own."""
    part = comm.split(range(comm.size))
    assert part is not None
    first = [part.all_reduce(np.full(60_000, i), async_op=True) for i in range(5)]
    second = [comm.all_reduce(np.full(7, i), async_op=True) for i in range(5)]
    for i in range(5):
        assert second[i].result(WAIT_SECONDS)[0] == i * comm.size == first[i].result(WAIT_SECONDS)[0]


CONTRACT: dict[str, Callable[[Comm], None]] = {
    check.__name__: check
    for check in (
        reductions,
        kinds,
        uneven,
        large,
        bits,
        views_and_strides,
        strides,
        items,
        lists,
        messages,
        asynchronous,
        objects,
        point_to_point,
        misfits,
        splitting,
        shared_state,
        mismatches,
        reverse_order,
    )
}
ALONE = ("reductions", "kinds", "large", "bits", "strides", "asynchronous")  # those that need no second rank
