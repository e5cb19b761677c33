"""One rank of a test under mpirun: runs the cases that its argument names, and tells how they ended.

Run as ``mpirun -n N python tests/support/mpirank.py '{"cases": ["reductions", ...]}'``. Each case is a function of the
communicator.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import reduce
from typing import Any

import ml_dtypes
import numpy as np

import collcomm
from collcomm.bench.launch import die_with_parent
from collcomm.bench.mpilaunch import emit

REDUCERS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}
DTYPES = [
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"),
    *("float16", "float32", "float64", "complex64", "complex128"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]
Comm = collcomm.Communicator
equal = np.testing.assert_array_equal


def sample(rank: int, size: int, dtype: Any) -> Any:
    """Small whole numbers: exact in every dtype, whatever the order of the sums."""
    return (np.arange(size) % 3 + rank % 2).astype(dtype)


def ops_for(dtype: np.dtype[Any]) -> list[str]:
    if dtype.kind in "iub":
        return [*REDUCERS]
    return ["sum", "prod", "avg"] if dtype.kind == "c" else ["sum", "prod", "min", "max", "avg"]


def raises(error: type[Exception], call: Callable[[], Any], *words: str) -> None:
    said = None
    try:
        call()
    except error as found:
        said = str(found)
    assert said is not None, f"{error.__name__} was not raised"
    missing = [word for word in words if word not in said]
    assert not missing, f"{missing} not in {said}"


def reductions(comm: Comm) -> None:
    n, me = comm.size, comm.rank
    for dtype in map(np.dtype, DTYPES):
        for op in ops_for(dtype):
            for size in (0, 1, 7, 1000):
                inputs = [sample(rank, size, dtype) for rank in range(n)]
                x = inputs[me].copy()
                expected = reduce(REDUCERS["sum" if op == "avg" else op], inputs)
                if op == "avg":
                    expected = expected / dtype.type(n)
                expected = expected.astype(dtype)
                result = comm.all_reduce(x, op=op)
                equal(result, expected)
                equal(x, inputs[me])
                assert result.dtype == dtype
                comm.all_reduce(x, op=op, out=x)
                equal(x, expected)


def kinds(comm: Comm) -> None:
    n, me = comm.size, comm.rank
    for rows in (0, 1, 5, 4096):
        data = [np.random.default_rng((rank, rows)).integers(0, 99, (n * rows, 3)) for rank in range(n)]
        total = reduce(np.add, data)
        equal(comm.all_reduce(data[me]), total)
        equal(comm.reduce_scatter(data[me]), total[me * rows : (me + 1) * rows])
        equal(comm.all_gather(data[me]), np.concatenate(data))
        equal(comm.all_to_all(data[me]), np.concatenate([block[me * rows : (me + 1) * rows] for block in data]))
        for root in range(n):
            equal(comm.broadcast(data[me], root=root), data[root])
            told = data[me].copy()
            assert comm.broadcast(told, root=root, out=told) is told
            equal(told, data[root])
            reduced, gathered = comm.reduce(data[me], root=root), comm.gather(data[me], root=root)
            if me == root:
                equal(reduced, total)
                equal(gathered, np.concatenate(data))
            else:
                assert reduced is None and gathered is None
            mine = np.empty((rows, 3), data[0].dtype)
            comm.scatter(data[me] if me == root else None, root=root, out=mine)
            equal(mine, data[root][me * rows : (me + 1) * rows])
        comm.barrier()


def uneven(comm: Comm) -> None:
    n, me = comm.size, comm.rank
    for scale in (1, 700):
        counts = [scale * count for count in (3, 0, 5, 1)[:n]]
        blocks = [np.full((count, 2), rank, ml_dtypes.bfloat16) for rank, count in enumerate(counts)]
        equal(comm.all_gather(blocks[me], counts=counts), np.concatenate(blocks))
        assert (comm.gather(blocks[me], root=n - 1, counts=counts) is None) == (me != n - 1)
        edges = np.concatenate(([0], np.cumsum(counts)))
        for dtype in (np.float64, np.float16):
            shape = (edges[-1], 2)
            inputs = [(np.arange(2 * edges[-1]) % 5 + rank).astype(dtype).reshape(shape) for rank in range(n)]
            expected = sum(inputs)
            equal(comm.reduce_scatter(inputs[me], counts=counts), expected[edges[me] : edges[me + 1]])
        mine = np.empty((counts[me], 2), np.float16)
        comm.scatter(expected if me == 0 else None, out=mine, counts=counts)
        equal(mine, expected[edges[me] : edges[me + 1]])
        table = np.array([[scale * ((a * 3 + b * 5) % 4) for b in range(n)] for a in range(n)])
        x = np.concatenate([np.full(table[me, other], me * 10 + other) for other in range(n)])
        got = comm.all_to_all(x, send_counts=table[me], recv_counts=table[:, me])
        equal(got, np.concatenate([np.full(table[other, me], other * 10 + me) for other in range(n)]))


def large(comm: Comm) -> None:
    size, n = 400_001, comm.size
    for dtype in (np.float32, ml_dtypes.bfloat16):
        inputs = [np.random.default_rng(rank).integers(0, 9, size).astype(dtype) for rank in range(n)]
        x, kept = inputs[comm.rank].copy(), inputs[comm.rank]
        made, out = comm.all_reduce(x), np.empty_like(x)
        equal(x, kept)
        assert comm.all_reduce(x, out=out) is out and comm.all_reduce(x, out=x) is x
        equal(made.view(np.uint8), out.view(np.uint8))
        equal(made.view(np.uint8), x.view(np.uint8))
        equal(made, reduce(np.add, inputs))
        equal(comm.all_reduce(kept, op="max"), reduce(np.maximum, inputs))


def bits(comm: Comm) -> None:
    """NaNs and the two zeros under min: a result depends on which operand stands left."""
    for size in (1, 100, 50_000):
        nan = np.full(size, 0x7FC00000 + comm.rank, np.uint32).view(np.float32)
        zero = np.full(size, -0.0 if comm.rank % 2 else 0.0, np.float32)
        for x in (nan, zero):
            mine = comm.all_reduce(x, op="min")
            rows = comm.all_gather(mine).reshape(comm.size, -1)
            assert all((row.view(np.uint32) == rows[0].view(np.uint32)).all() for row in rows)


def views_and_strides(comm: Comm) -> None:
    n = comm.size
    whole = np.arange(60, dtype=np.float32).reshape(6, 10)
    equal(comm.all_reduce(whole[:, ::2]), whole[:, ::2] * n)
    target = np.zeros((6, 20), np.float32)
    comm.all_reduce(whole, out=target[:, ::2])
    equal(target[:, ::2], whole * n)
    overlapping = np.arange(10, dtype=np.float64)
    comm.all_reduce(overlapping[:8], out=overlapping[2:])
    equal(overlapping[2:], np.arange(8) * n)
    swapped = np.arange(n) + 10 * comm.rank
    comm.all_to_all(swapped, out=swapped)
    assert swapped.tolist() == [10 * rank + comm.rank for rank in range(n)]
    frozen = np.arange(2000.0)
    frozen.flags.writeable = False
    equal(comm.all_reduce(frozen), frozen * n)


def asynchronous(comm: Comm) -> None:
    seen: list[int] = []
    handles = []
    for i in range(20):
        handle = comm.all_reduce(np.full(10 + 50_000 * (i % 3), i), async_op=True)
        handle.add_done_callback(lambda _, i=i: seen.append(i))
        handles.append(handle)
    assert comm.all_reduce(np.array([7]))[0] == 7 * comm.size
    for i, handle in enumerate(handles):
        assert handle.result(30)[0] == i * comm.size
    assert seen == list(range(20))


def objects(comm: Comm) -> None:
    values = comm.all_gather_object({"rank": comm.rank, "text": "x" * comm.rank * 1000})
    assert [value["rank"] for value in values] == list(range(comm.size))
    assert comm.broadcast_object([1, "two"] if comm.rank == 1 else None, root=1) == [1, "two"]
    assert comm.all_gather_object({comm.rank}, pickle=True) == [{rank} for rank in range(comm.size)]


def point_to_point(comm: Comm) -> None:
    me, n = comm.rank, comm.size
    big = np.full(700_000, me, np.int32)
    handle = comm.send(big, (me + 1) % n, async_op=True)
    out = np.empty_like(big)
    assert comm.recv(out, (me - 1) % n) is out
    handle.result(30)
    assert (out == (me - 1) % n).all()
    if me == 0:
        for tag in (5, 6, 2**32 - 1):
            comm.send(np.array([tag]), 1, tag=tag)
    if me == 1:
        for tag in (2**32 - 1, 5, 6):  # not in the order of sending
            assert comm.recv(np.zeros(1, int), 0, tag=tag)[0] == tag
        comm.send(np.zeros(3, np.float32), 0, tag=1)
    if me == 0:
        raises(collcomm.CollectiveMismatch, lambda: comm.recv(np.zeros(2), 1, tag=1), "sent 12 bytes")
    comm.barrier()


def parting_words(comm: Comm) -> None:
    """What was sent before leaving arrives, although nobody has asked for it yet."""
    if comm.rank == 0:
        comm.send(np.arange(200_000.0), 1)
    elif comm.rank == 1:
        time.sleep(0.3)
        out = np.zeros(200_000)
        equal(comm.recv(out, 0), np.arange(200_000.0))
    comm.leave()


def splitting(comm: Comm) -> None:
    even, odd = comm.split(range(0, comm.size, 2)), comm.split(range(1, comm.size, 2))
    part = even or odd
    assert part is not None and (even is None) != (odd is None)
    for size in (1, 100_000):
        expected = sum(range(comm.rank % 2, comm.size, 2))
        assert (part.all_reduce(np.full(size, comm.rank)) == expected).all()
    if part.size > 1:
        out = np.zeros(1)
        if part.rank == 0:
            part.send(np.array([3.0]), 1)
        if part.rank == 1:
            assert part.recv(out, 0)[0] == 3
    state = {"w": np.full(1000, part.rank, np.float32)}
    part.sync(state, revision=part.rank)
    assert (state["w"] == part.size - 1).all()
    raises(ValueError, part.step, "step")
    part.close()


def shared_state(comm: Comm) -> None:
    state = {"w": np.full(300_000, 5.0 if comm.rank else 0.0, np.float32)}
    report = comm.sync(state, revision=3 if comm.rank else None)
    assert report.revision == 3 and (state["w"] == 5).all() and report.changed == (comm.rank == 0)
    handle = comm.sync(state, revision=4, async_op=True)
    for _ in range(10):
        comm.all_reduce(np.ones(10))
    assert handle.result(30).revision == 4
    before = comm.view.epoch
    assert comm.step().epoch == before


def mismatches(comm: Comm) -> None:
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
        assert second[i].result(30)[0] == i * comm.size == first[i].result(30)[0]


# -- cases with failures -----------------------------------------------------------------------------------------------


def leaving(comm: Comm) -> None:
    """The last rank leaves, the others go on."""
    n = comm.size
    part = comm.split(range(1, n))
    if comm.rank == n - 1:
        comm.leave(timeout=20)
        assert comm.closed
        return
    for size in (1, 10_000):
        while (result := comm.all_reduce(np.ones(size)))[0] == n:
            pass
        assert (result == n - 1).all() and comm.size == n - 1 and comm.view.epoch == 2
    state = {"w": np.full(1000, comm.rank)}
    assert comm.sync(state, revision=comm.rank).revision == n - 2 and (state["w"] == n - 2).all()
    if part is not None:
        assert part.all_reduce(np.ones(1))[0] == n - 2 == part.size
    comm.leave()


def expiring(comm: Comm) -> None:
    """A peer comes late: everybody learns it, and the group goes on."""
    last = comm.size - 1
    if comm.rank == last:
        time.sleep(1.2)
    late = comm.view[last].name
    raises(collcomm.CollectiveTimeout, lambda: comm.all_reduce(np.ones(3), timeout=0.3), f"{late} had not called it")
    assert comm.all_reduce(np.ones(3))[0] == comm.size and comm.view.epoch == 2
    comm.leave()


def expiring_for_good(comm: Comm) -> None:
    """Without ULFM: the time-out closes this peer's communicator."""
    if comm.rank:
        time.sleep(2)
        os._exit(0)
    late = comm.view[1].name
    raises(collcomm.CollectiveTimeout, lambda: comm.all_reduce(np.ones(3), timeout=0.3), late, "closed")
    raises(collcomm.CollectiveTimeout, lambda: comm.all_reduce(np.ones(3)))
    emit(event="done", case="expiring_for_good", rank=0)
    os._exit(0)


class Checker:
    """Reduces without pause over sizes, dtypes and kinds, and checks each result against the view that it ran in."""

    SIZES = (1, 30, 3000, 300_000)

    def __init__(self, comm: Comm, seed: int):
        self.comm, self.random = comm, np.random.default_rng(seed)  # the same choices everywhere
        self.everybody = comm.view.ids
        self.log: list[tuple[int, Any]] = []  # (number of the call, what it returned)
        self.calls = 0

    def one(self) -> None:
        comm, number = self.comm, self.calls
        self.calls += 1
        size = int(self.random.choice(self.SIZES))
        kind = self.random.choice(["all_reduce", "in_place", "scheduled", "all_gather", "reduce_scatter", "broadcast"])
        n = len(self.everybody)
        dtype = ml_dtypes.bfloat16 if kind == "scheduled" else np.float64
        before = comm.view
        give = np.full(size if kind != "reduce_scatter" else size * before.size, 1 << comm._session.member, dtype)
        kept = give.copy()
        try:
            if kind == "in_place":
                result = comm.all_reduce(give, out=give)
            elif kind == "all_gather":
                result = comm.all_gather(give)
            elif kind == "reduce_scatter":
                result = comm.reduce_scatter(give)
            elif kind == "broadcast":
                result = comm.broadcast(give, root=before.size - 1)
            else:
                result = comm.all_reduce(give)
        except collcomm.PeerLost:
            equal(give, kept)
            self.log.append((number, f"lost {kind}"))
            return
        view = comm.view
        weights = [1 << member for member in view.ids]
        if kind == "all_gather":
            expected: Any = np.repeat(weights, size)
        elif kind == "broadcast":
            expected = 1 << before.ids[-1]
        else:
            expected = sum(weights)
        where = f"call {number} {kind} of {size} in view {view.epoch} of {view.size}/{n}: {result[:4]}"
        assert (result == expected).all(), where
        if kind != "in_place":
            equal(give, kept)
        self.log.append((number, float(np.asarray(result, np.float64).sum())))


def dying(comm: Comm, case: dict[str, Any]) -> None:
    """Victims die ``after`` seconds, whatever they are doing; the others' logs must be equal."""
    checker = Checker(comm, case["seed"])
    if comm.rank in case["victims"]:
        threading.Timer(case["after"] + 0.0005 * comm.rank, os.kill, (os.getpid(), signal.SIGKILL)).start()
    left = len(comm.view.ids) - len(case["victims"])
    extra = 0
    deadline = time.monotonic() + 20
    while extra < 10:
        checker.one()
        extra += comm.size == left
        assert time.monotonic() < deadline, "the victims do not die, or nobody notices"
    emit(
        event="log",
        rank=comm.rank,
        log=checker.log,
        epoch=comm.view.epoch,
        retries=comm.stats()["retries"],
    )
    comm.leave()


def dying_everywhere(comm: Comm, case: dict[str, Any]) -> None:
    """A death while the world, a smaller group and the shared state are in use, by a thread each."""
    n, me = comm.size, comm.rank
    part = comm.split(range(1, n))
    if me == case["victims"][0]:
        threading.Timer(case["after"], os.kill, (os.getpid(), signal.SIGKILL)).start()
    state = {"w": np.full(200_000, 1.0 if me else 0.0, np.float32)}
    rounds, extra, deadline = 0, 0, time.monotonic() + 20
    while extra < 5:
        rounds += 1
        sync = comm.sync(state, revision=rounds, async_op=True) if rounds % 3 == 0 else None
        handles = [comm.all_reduce(np.ones(size), async_op=True) for size in (3, 50_000)]
        if part is not None:
            assert part.all_reduce(np.ones(1000))[0] == part.size
        for handle in handles:
            assert handle.result(20)[0] in (n, n - 1)
        if sync is not None:
            sync.result(20)
        extra += comm.step().size == n - 1
        assert time.monotonic() < deadline, "the victim does not die, or nobody notices"
    emit(event="log", rank=comm.rank, log=[[rounds, float(state["w"].sum())]])
    comm.leave()


def absent() -> None:
    """The last rank never joins, and all are told."""
    if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
        raises(collcomm.CollectiveTimeout, lambda: collcomm.join(timeout=0.5), "not all ranks")
        emit(event="done", case="absent", rank=0)
    else:
        from mpi4py import MPI  # noqa: F401 - it is there, but does not join

        time.sleep(1.5)
    os._exit(0)


ENDING = {
    "parting_words": parting_words,
    "leaving": leaving,
    "expiring": expiring,
    "expiring_for_good": expiring_for_good,
}
PLAIN = {
    case.__name__: case
    for case in (
        reductions,
        kinds,
        uneven,
        large,
        bits,
        views_and_strides,
        asynchronous,
        objects,
        point_to_point,
        splitting,
        shared_state,
        mismatches,
        reverse_order,
    )
}


def main() -> None:
    die_with_parent()
    case = json.loads(sys.argv[1])
    if case.get("cases") == ["absent"]:
        absent()
    comm = collcomm.join(
        timeout=20, op_timeout=case.get("op_timeout", 20.0), on_failure=case.get("on_failure", "retry")
    )
    name = "join"
    try:
        if "seed" in case:
            (dying_everywhere if case.get("everywhere") else dying)(comm, case)
            return
        for name in case["cases"]:
            (ENDING.get(name) or PLAIN[name])(comm)
            emit(event="done", case=name, rank=comm._session.member)
        if not comm.closed:
            comm.leave()
    except BaseException as error:
        emit(event="error", case=name, rank=comm._session.member, text="".join(traceback.format_exception(error)))
        os._exit(1)


if __name__ == "__main__":
    main()
