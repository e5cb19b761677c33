"""Every collective, over real sockets, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import collcomm
from tests.support.peers import run_peers

pytestmark = pytest.mark.usefixtures("every_transport")

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


def sample(rank: int, size: int, dtype: Any) -> np.ndarray:
    """Small whole numbers: exact in every dtype, whatever the order of the sums."""
    return (np.arange(size) % 3 + rank % 2).astype(dtype)


def ops_for(dtype: np.dtype) -> list[str]:
    if dtype.kind in "iub":
        return [*REDUCERS]
    return ["sum", "prod", "avg"] if dtype.kind == "c" else ["sum", "prod", "min", "max", "avg"]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_all_reduce_every_dtype_and_op(dtype: Any) -> None:
    n = 3

    def body(comm: collcomm.Communicator) -> None:
        for op in ops_for(np.dtype(dtype)):
            for size in (0, 1, 7, 1000):
                inputs = [sample(rank, size, dtype) for rank in range(n)]
                x = inputs[comm.rank].copy()
                result = comm.all_reduce(x, op=op)
                expected = reduce(REDUCERS["sum" if op == "avg" else op], inputs)
                if op == "avg":
                    expected = expected / np.dtype(dtype).type(n)
                np.testing.assert_array_equal(result, expected.astype(dtype))
                np.testing.assert_array_equal(x, inputs[comm.rank])
                assert result.dtype == np.dtype(dtype)

    run_peers(n, body)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7])
def test_all_kinds(n: int) -> None:
    def body(comm: collcomm.Communicator) -> None:
        me = comm.rank
        for rows in (0, 1, 5, 4096):
            data = [np.random.default_rng((rank, rows)).integers(0, 99, (n * rows, 3)) for rank in range(n)]
            total = reduce(np.add, data)
            np.testing.assert_array_equal(comm.all_reduce(data[me]), total)
            np.testing.assert_array_equal(comm.reduce_scatter(data[me]), total[me * rows : (me + 1) * rows])
            np.testing.assert_array_equal(comm.all_gather(data[me]), np.concatenate(data))
            exchanged = np.concatenate([block[me * rows : (me + 1) * rows] for block in data])
            np.testing.assert_array_equal(comm.all_to_all(data[me]), exchanged)
            for root in range(n):
                np.testing.assert_array_equal(comm.broadcast(data[me], root=root), data[root])
                reduced = comm.reduce(data[me], root=root)
                gathered = comm.gather(data[me], root=root)
                if me == root:
                    np.testing.assert_array_equal(reduced, total)
                    np.testing.assert_array_equal(gathered, np.concatenate(data))
                else:
                    assert reduced is None and gathered is None
                mine = np.empty((rows, 3), data[0].dtype)
                comm.scatter(data[me] if me == root else None, root=root, out=mine)
                np.testing.assert_array_equal(mine, data[root][me * rows : (me + 1) * rows])
            comm.barrier()

    run_peers(n, body)


def test_uneven_counts() -> None:
    n = 4
    counts = [3, 0, 5, 1]

    def body(comm: collcomm.Communicator) -> None:
        me = comm.rank
        blocks = [np.full((count, 2), rank, np.int32) for rank, count in enumerate(counts)]
        np.testing.assert_array_equal(comm.all_gather(blocks[me], counts=counts), np.concatenate(blocks))
        gathered = comm.gather(blocks[me], root=2, counts=counts)
        assert (gathered is None) == (me != 2)
        whole = np.arange(18, dtype=np.float64).reshape(9, 2) + me
        expected = sum(np.arange(18, dtype=np.float64).reshape(9, 2) + rank for rank in range(n))
        edges = np.concatenate(([0], np.cumsum(counts)))
        np.testing.assert_array_equal(comm.reduce_scatter(whole, counts=counts), expected[edges[me] : edges[me + 1]])
        mine = np.empty((counts[me], 2))
        comm.scatter(expected if me == 0 else None, out=mine, counts=counts)
        np.testing.assert_array_equal(mine, expected[edges[me] : edges[me + 1]])
        table = np.array([[(a * 3 + b * 5) % 4 for b in range(n)] for a in range(n)])
        x = np.concatenate([np.full(table[me, other], me * 10 + other) for other in range(n)])
        got = comm.all_to_all(x, send_counts=table[me], recv_counts=table[:, me])
        want = np.concatenate([np.full(table[other, me], other * 10 + me) for other in range(n)])
        np.testing.assert_array_equal(got, want)

    run_peers(n, body)


@pytest.mark.parametrize("streams", [1, 3])
def test_large_in_place_and_out_of_place(streams: int) -> None:
    n, size = 3, 1_500_001

    def body(comm: collcomm.Communicator) -> bytes:
        x = np.random.default_rng(comm.rank).standard_normal(size, np.float32)
        kept = x.copy()
        made = comm.all_reduce(x)
        np.testing.assert_array_equal(x, kept)
        out = np.empty_like(x)
        assert comm.all_reduce(x, out=out) is out
        assert comm.all_reduce(x, out=x) is x
        np.testing.assert_array_equal(made.view(np.uint32), out.view(np.uint32))
        np.testing.assert_array_equal(made.view(np.uint32), x.view(np.uint32))
        inputs = [np.random.default_rng(rank).standard_normal(size, np.float32) for rank in range(n)]
        np.testing.assert_allclose(made, reduce(np.add, inputs), atol=1e-5)
        gathered = comm.all_gather(kept)
        np.testing.assert_array_equal(gathered, np.concatenate(inputs))
        return made.tobytes()

    assert len(set(run_peers(n, body, streams=streams))) == 1, "results differ in their bits"


@pytest.mark.parametrize("size", [1, 100, 200_000])
def test_bits_are_equal_where_operand_order_shows(size: int) -> None:
    """NaNs with different payloads, and the two zeros under min: a result depends on which operand stands left."""

    def body(comm: collcomm.Communicator) -> list[bytes]:
        nan = np.full(size, 0x7FC00000 + comm.rank, np.uint32).view(np.float32)
        zero = np.full(size, -0.0 if comm.rank % 2 else 0.0, np.float32)
        return [comm.all_reduce(nan).tobytes(), comm.all_reduce(zero, op="min").tobytes()]

    for n in (2, 3, 5):
        results = run_peers(n, body)
        assert all(result == results[0] for result in results)


def test_views_and_strides() -> None:
    def body(comm: collcomm.Communicator) -> None:
        whole = np.arange(60, dtype=np.float32).reshape(6, 10)
        np.testing.assert_array_equal(comm.all_reduce(whole[:, ::2]), whole[:, ::2] * 2)
        np.testing.assert_array_equal(comm.all_reduce(whole.T), whole.T * 2)
        target = np.zeros((6, 20), np.float32)
        comm.all_reduce(whole, out=target[:, ::2])
        np.testing.assert_array_equal(target[:, ::2], whole * 2)
        assert not target[:, 1::2].any()
        overlapping = np.arange(10, dtype=np.float64)
        comm.all_reduce(overlapping[:8], out=overlapping[2:])
        np.testing.assert_array_equal(overlapping[2:], np.arange(8) * 2)
        swapped = np.array([10 * comm.rank, 10 * comm.rank + 1])
        comm.all_to_all(swapped, out=swapped)
        assert swapped.tolist() == [comm.rank, 10 + comm.rank]
        summed = np.ones(3)
        comm.reduce(summed, out=summed)
        assert summed.tolist() == ([2.0] * 3 if comm.rank == 0 else [1.0] * 3)
        told = np.full(4, comm.rank)
        assert comm.broadcast(told, root=1, out=told) is told and (told == 1).all()
        assert comm.all_reduce(np.float32(3.0)) == 6
        assert comm.all_reduce(memoryview(bytearray(b"\x01\x02"))).tolist() == [2, 4]

    run_peers(2, body)


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")

    def body(comm: collcomm.Communicator) -> None:
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.float8_e5m2):
            x = torch.ones(5, 3).to(dtype)
            result = comm.all_reduce(x)
            assert result.dtype == dtype and result.shape == x.shape
            assert (result.to(torch.float32) == 2).all()
        x = torch.ones(4, requires_grad=True)
        assert comm.all_reduce(x).tolist() == [2, 2, 2, 2]
        y = torch.zeros(3, 4).t()
        comm.all_reduce(torch.ones(4, 3), out=y)
        assert (y == 2).all()

    run_peers(2, body)


def test_objects() -> None:
    def body(comm: collcomm.Communicator) -> None:
        values = comm.all_gather_object({"rank": comm.rank, "text": "x" * comm.rank * 1000})
        assert [value["rank"] for value in values] == [0, 1, 2]
        assert comm.broadcast_object([1, "two"] if comm.rank == 1 else None, root=1) == [1, "two"]
        with pytest.raises(TypeError, match="pickle=True"):
            comm.all_gather_object({1, 2})
        assert comm.all_gather_object({comm.rank}, pickle=True) == [{0}, {1}, {2}]

    run_peers(3, body)


def test_point_to_point() -> None:
    def body(comm: collcomm.Communicator) -> None:
        me, n = comm.rank, comm.size
        big = np.full(3_000_000, me, np.int32)
        handle = comm.send(big, (me + 1) % n, async_op=True)
        out = np.empty_like(big)
        assert comm.recv(out, (me - 1) % n) is out
        handle.result(30)
        assert (out == (me - 1) % n).all()
        if me == 0:
            for tag in (5, 6, 7):
                comm.send(np.array([tag]), 1, tag=tag)
        if me == 1:
            for tag in (7, 5, 6):  # not in the order of sending
                assert comm.recv(np.zeros(1, int), 0, tag=tag)[0] == tag
        if me == 2:
            comm.send(np.zeros(3, np.float32), 0, tag=1)
        if me == 0:
            with pytest.raises(collcomm.CollectiveMismatch, match="sent 12 bytes"):
                comm.recv(np.zeros(2, np.float64), 2, tag=1)
        comm.barrier()

    run_peers(3, body)


def test_many_async_operations_in_flight() -> None:
    def body(comm: collcomm.Communicator) -> None:
        seen: list[int] = []
        handles = []
        for i in range(40):
            handle = comm.all_reduce(np.full(1000 + 50_000 * (i % 3), i), async_op=True)
            handle.add_done_callback(lambda _, i=i: seen.append(i))
            handle.add_done_callback(lambda _: 1 / 0)  # a callback's fault is logged, and hurts nobody
            handles.append(handle)
        between = comm.all_reduce(np.array([7]))  # a synchronous call takes its place in the order
        assert between[0] == 7 * comm.size
        for i, handle in enumerate(handles):
            assert handle.result(30)[0] == i * comm.size and handle.done()
        assert seen == list(range(40))

    run_peers(3, body)


def test_split_into_groups() -> None:
    def body(comm: collcomm.Communicator) -> None:
        even = comm.split([0, 2])
        odd = comm.split([1, 3])
        part = even or odd
        assert part is not None and (even is None) != (odd is None)
        assert part.size == 2 and part.rank == comm.rank // 2
        for size in (1, 100_000):
            result = part.all_reduce(np.full(size, comm.rank))
            assert (result == (2 if even else 4)).all()
        again = part.split([1])
        assert (again is not None) == (part.rank == 1)
        comm.barrier()
        with pytest.raises(ValueError, match="step"):
            part.step()

    run_peers(4, body)


def test_ipv6() -> None:
    with collcomm.Coordinator("[::1]:0") as coordinator:
        from tests.support.peers import run_peers_at

        def body(comm: collcomm.Communicator) -> None:
            assert ":" in comm.view.members[0].host
            assert comm.all_reduce(np.ones(10))[0] == 2

        run_peers_at(coordinator.address, 2, body)
