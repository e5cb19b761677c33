"""An all_reduce with a function in its middle: what the function of the sum would be, whoever dies, fails or disagrees."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pytest

import collcomm
import collcomm.aio
from tests.support.contract import equal, raises, same_everywhere
from tests.support.peers import run_peers

from .test_failures import Processes

Array = np.ndarray[Any, Any]
each_transport = pytest.mark.usefixtures("each_transport")


def numbers(rank: int, rows: int, width: int = 3, dtype: Any = np.float32) -> Array:
    """Whole, so that sums are exact."""
    return np.random.default_rng((rank, rows)).integers(-50, 50, (rows, width)).astype(dtype)


def marked(shard: Any, start: int) -> Any:
    """A function of rows that knows which they are."""
    return shard * 2 + (np.arange(start, start + len(shard)) % 7).astype(shard.dtype)[:, None]


# ---- results ------------------------------------------------------------------------------------------------------------


@each_transport
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_result_is_the_function_of_the_sum(n: int) -> None:
    def body(comm: collcomm.Communicator) -> None:
        for op, dtype in (("sum", np.int64), ("max", np.float64), ("avg", np.float32), ("sum", np.float16)):
            for rows in (0, 1, 2, 7, 1000):
                x = numbers(comm.rank, rows, dtype=dtype)
                before = x.copy()
                expected = marked(comm.all_reduce(x, op=op), 0)
                result = comm.fused_all_reduce(x, marked, op=op)
                assert result.dtype == dtype
                equal(result, expected)
                equal(x, before)
                out = np.empty_like(x)
                assert comm.fused_all_reduce(x, marked, op=op, out=out) is out
                equal(out, expected)
                assert comm.fused_all_reduce(x, marked, op=op, out=x) is x
                equal(x, expected)

    run_peers(n, body)


@each_transport
def test_arrays_of_any_strides_and_tensors() -> None:
    torch = pytest.importorskip("torch")

    def body(comm: collcomm.Communicator) -> None:
        wide = numbers(comm.rank, 40, 400)
        columns, target = wide[:, ::2], np.zeros((40, 300))[:, 50:250].astype(np.float32)
        expected = marked(comm.all_reduce(columns), 0)
        equal(comm.fused_all_reduce(columns, marked), expected)
        assert comm.fused_all_reduce(columns, marked, out=target) is target
        equal(target, expected)
        expected = marked(comm.all_reduce(wide[:-1].copy()), 0)
        comm.fused_all_reduce(wide[:-1], marked, out=wide[1:])
        equal(wide[1:], expected)
        equal(comm.fused_all_reduce(np.arange(5.0), lambda shard, start: shard), np.arange(5.0) * comm.size)
        for dtype in (torch.float32, torch.bfloat16):
            tensor = torch.from_numpy(numbers(comm.rank, 5)).to(dtype)
            total = comm.all_reduce(tensor)
            seen: list[Any] = []

            def doubled(shard: Any, start: int) -> Any:
                seen.append((type(shard), shard.dtype))
                return shard.mul_(2)

            result = comm.fused_all_reduce(tensor, doubled)
            assert result.dtype == dtype and torch.equal(result, total * 2)
            assert comm.fused_all_reduce(tensor, doubled, out=tensor) is tensor and torch.equal(tensor, total * 2)
            assert set(seen) == {(torch.Tensor, dtype)}

    run_peers(2, body)


@each_transport
def test_rows_are_never_split_and_each_has_one_owner() -> None:
    def body(comm: collcomm.Communicator) -> list[tuple[int, int]]:
        calls = []
        for rows in (7, 2):

            def note(shard: Array, start: int) -> Array:
                assert shard.shape[1:] == (4, 5)
                calls.append((start, len(shard)))
                return shard

            comm.fused_all_reduce(np.ones((rows, 4, 5)), note)
        return calls

    assert run_peers(3, body) == [[(0, 2)], [(2, 2), (0, 1)], [(4, 3), (1, 1)]]


@each_transport
def test_bits() -> None:
    """Of two members, those of all_reduce; of more, the same at all."""

    def body(comm: collcomm.Communicator) -> None:
        x = np.random.default_rng(comm.rank).standard_normal((50, 33)).astype(np.float32)
        result = comm.fused_all_reduce(x, norm)
        same_everywhere(comm, result)
        plain = norm(comm.all_reduce(x), 0)
        if comm.size == 2:
            equal(result, plain)
        np.testing.assert_allclose(result, plain, rtol=1e-5, atol=1e-6)

    def norm(shard: Array, start: int) -> Array:
        return shard / np.sqrt((shard * shard).mean(1, keepdims=True) + np.float32(1e-6))

    for n in (2, 3):
        run_peers(n, body)


@each_transport
def test_handles_come_in_order_beside_other_calls() -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = numbers(comm.rank, 9)
        handles = []
        for turn in range(4):
            handles.append(comm.fused_all_reduce(x + turn, marked, async_op=True))
            handles.append(comm.all_reduce(x, async_op=True))
        total = comm.all_reduce(x)
        for turn in range(4):
            equal(handles[2 * turn].result(20), marked(total + comm.size * turn, 0))
            equal(handles[2 * turn + 1].result(20), total)

    run_peers(3, body)


async def test_the_asyncio_face() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        async with await collcomm.aio.join(coordinator.address, timeout=20) as comm:
            equal(await comm.fused_all_reduce(np.ones((3, 2)), lambda shard, start: shard + 1), np.full((3, 2), 2.0))


def test_bytes_on_the_wire_are_what_the_docstring_says(over_tcp: None) -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = np.ones((3000, 256), np.float32)
        comm.fused_all_reduce(x, marked)
        before = comm.stats()["bytes_sent"]
        comm.fused_all_reduce(x, marked)
        sent = comm.stats()["bytes_sent"] - before
        expected = 2 * (comm.size - 1) / comm.size * x.nbytes
        assert expected <= sent <= 1.01 * expected + 4096

    run_peers(3, body)


# ---- errors -------------------------------------------------------------------------------------------------------------


def fails(shard: Any, start: int) -> Any:
    if start == 2:
        raise ZeroDivisionError("by zero; at once")
    return shard


def wrong_shape(shard: Any, start: int) -> Any:
    return shard[:, :1] if start == 2 else shard


def wrong_dtype(shard: Any, start: int) -> Any:
    return shard.astype(np.int64) if start == 2 else shard


def nothing(shard: Any, start: int) -> Any:
    return None if start == 2 else shard


@each_transport
@pytest.mark.parametrize("later", [False, True], ids=["at once", "handle"])
def test_a_function_that_fails_at_one_rank_is_named_at_all(later: bool) -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = numbers(comm.rank, 7)

        for epilogue, own, words in (
            (fails, ZeroDivisionError, "by zero"),
            (wrong_shape, ValueError, "of shape (2, 1)"),
            (wrong_dtype, ValueError, "int64"),
            (nothing, TypeError, "must be an array"),
        ):
            for out in (None, x):

                def once() -> Any:
                    if later:
                        return comm.fused_all_reduce(x, epilogue, out=out, async_op=True).result(20)
                    return comm.fused_all_reduce(x, epilogue, out=out)

                if comm.rank == 1:
                    raises(own, once, words)
                else:
                    name = comm.view[1].name
                    raises(collcomm.EpilogueFailed, once, f"rank 1 ({name}) raised {own.__name__}: ", "intact")
                equal(x, numbers(comm.rank, 7))
        equal(comm.fused_all_reduce(x, marked), marked(comm.all_reduce(x), 0))

    run_peers(3, body)


@each_transport
def test_a_function_that_fails_at_all_raises_its_own_error() -> None:
    def body(comm: collcomm.Communicator) -> None:
        def always(shard: Any, start: int) -> Any:
            raise KeyError(f"at {comm.rank}" if start % 2 else "here")

        for rows in (comm.size, 4 * comm.size):
            raises(KeyError, lambda: comm.fused_all_reduce(np.ones((rows, 2)), always))
        raises(collcomm.EpilogueFailed if comm.rank < comm.size - 1 else KeyError, lambda: few(comm, always))
        comm.barrier()

    def few(comm: collcomm.Communicator, always: Any) -> Any:
        return comm.fused_all_reduce(np.ones((1, 2)), always)

    for n in (1, 3):
        run_peers(n, body)


@each_transport
def test_who_calls_something_else_is_named() -> None:
    def body(comm: collcomm.Communicator) -> None:
        x = numbers(comm.rank, 6)
        odd = comm.rank == 2
        calls: list[Callable[[], Any]] = [
            lambda: comm.all_reduce(x) if odd else comm.fused_all_reduce(x, marked),
            lambda: comm.fused_all_reduce(x, marked, op="max" if odd else "sum"),
            lambda: comm.fused_all_reduce(x.reshape(3, 6) if odd else x, marked),
        ]
        for call in calls:
            raises(collcomm.CollectiveMismatch, call, f"{comm.view[2].name} called something else", "fused_all_reduce")
        equal(comm.fused_all_reduce(x, marked), marked(comm.all_reduce(x), 0))

    run_peers(3, body)


def test_what_cannot_be_done_is_refused_before_anything_is_sent() -> None:
    def body(comm: collcomm.Communicator) -> None:
        raises(ValueError, lambda: comm.fused_all_reduce(np.float32(1), marked), "no rows")
        raises(TypeError, lambda: comm.fused_all_reduce(np.ones(3), None), "function")  # type: ignore[arg-type]
        raises(ValueError, lambda: comm.fused_all_reduce(np.ones(3), marked, op="xor"), "xor")
        raises(ValueError, lambda: comm.fused_all_reduce(np.ones(3), marked, out=np.ones(4)), "shape")
        comm.close()
        raises(collcomm.CommunicatorClosed, lambda: comm.fused_all_reduce(np.ones((3, 1)), marked))

    run_peers(1, body)


def test_a_member_that_does_not_come_ends_it_in_time() -> None:
    ended = threading.Event()

    def body(comm: collcomm.Communicator) -> None:
        x = np.ones((4, 2))
        if comm.rank == 0:
            late = collcomm.CollectiveTimeout
            raises(late, lambda: comm.fused_all_reduce(x, marked, out=x, timeout=0.3), comm.view[1].name)
            equal(x, np.ones((4, 2)))
            ended.set()
        else:
            assert ended.wait(20)
            raises(collcomm.CollectiveTimeout, lambda: comm.fused_all_reduce(x, marked))  # as the other one was told
        equal(comm.fused_all_reduce(x, marked), marked(x * 2, 0))

    run_peers(2, body)


# ---- deaths -------------------------------------------------------------------------------------------------------------

ROWS = 12_000


def reduce_and_die(comm: collcomm.Communicator, tell: Connection, dying: int, in_place: bool, later: bool) -> None:
    """One of them, in its function or while the others gather what its own has made."""
    calls = []

    def epilogue(shard: Array, start: int) -> Array:
        if comm.rank == dying:
            os.kill(os.getpid(), signal.SIGKILL)
        calls.append(len(shard))
        return marked(shard, start)

    x = np.full((ROWS, 16), float(comm.view[comm.rank].id))
    before = x.copy()
    call = comm.fused_all_reduce(x, epilogue, out=x if in_place else None, async_op=later)
    result = call.result(30) if later else call
    expected = marked(np.full((ROWS, 16), float(sum(comm.view.ids))), 0)
    assert (result == expected).all() and (in_place or (x == before).all())
    tell.send((comm.size, calls))
    comm.barrier()


@each_transport
@pytest.mark.parametrize(("dying", "in_place", "later"), [(1, False, False), (0, True, True), (2, True, False)])
def test_who_dies_in_its_function_is_left_out_and_all_others_begin_again(
    dying: int, in_place: bool, later: bool
) -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(reduce_and_die, 3, dying, in_place, later, min_size=3)
        heard = [told for told in (hear_or_end(peers, index) for index in range(3)) if told is not None]
        assert heard == [(2, [ROWS // 3, ROWS // 2])] * 2


def reduce_and_raise(comm: collcomm.Communicator, tell: Connection) -> None:
    def epilogue(shard: Array, start: int) -> Array:
        if comm.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return marked(shard, start)

    x = numbers(comm.rank, 100)
    before = x.copy()
    raises(collcomm.PeerLost, lambda: comm.fused_all_reduce(x, epilogue, out=x), "fused_all_reduce", "intact")
    equal(x, before)
    tell.send(comm.size)
    equal(comm.fused_all_reduce(x, marked), marked(comm.all_reduce(x), 0))


def test_with_on_failure_raise_all_survivors_are_told() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(reduce_and_raise, 3, min_size=3, on_failure="raise")
        assert [hear_or_end(peers, index) for index in range(3)].count(2) == 2


def reduce_until_smaller(comm: collcomm.Communicator, tell: Connection) -> None:
    """The death comes whenever it comes."""
    n, turns = comm.size, 0
    x = np.ones((ROWS, 16))
    tell.send("running")
    while comm.size == n:
        x[:] = 1
        comm.fused_all_reduce(x, marked, out=x)
        assert (x == marked(np.full((ROWS, 16), float(comm.size)), 0)).all()
        turns += 1
    tell.send(turns)
    comm.barrier()


@each_transport
def test_sigkill_at_some_instant() -> None:
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Processes(coordinator.address) as peers:
        peers.start(reduce_until_smaller, 3, min_size=3)
        assert [peers.hear(index) for index in range(3)] == ["running"] * 3
        peers.kill(1, signal.SIGKILL)
        assert peers.hear(0) == peers.hear(2)


def hear_or_end(peers: Processes, index: int) -> Any:
    """None of a peer that has died without a word."""
    try:
        return peers.hear(index)
    except EOFError:
        return None
