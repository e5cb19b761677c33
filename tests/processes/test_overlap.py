"""Communication behind computation: the same results as without, in orders of readiness that differ from member to member."""

from __future__ import annotations

import threading
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.overlap import combine_before, combine_others, weave
from tests.support.peers import run_peers

Array = np.ndarray[Any, Any]


def numbers(rank: int, *shape: int) -> Array:
    return np.random.default_rng(rank).integers(-50, 50, shape).astype(np.float32)


# ---- triggered ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "chunks"), [(1000, 7), (5, 5), (3, 8), (0, 1), (65_536, 16)])
def test_chunks_get_ready_in_another_order_at_each_member(size: int, chunks: int) -> None:
    def body(comm: collcomm.Communicator) -> Array:
        given, x = numbers(comm.rank, size), np.full(size, np.nan, np.float32)
        going = comm.triggered_all_reduce(x, chunks=chunks)
        start = 0
        starts = [start := start + len(part) for part in [[], *going.chunks[:-1]]]
        for chunk in np.random.default_rng(100 + comm.rank).permutation(chunks):
            going.chunks[chunk][:] = given[starts[chunk] : starts[chunk] + len(going.chunks[chunk])]
            going.ready(int(chunk))
        assert going.result(20) is x
        return x

    expected = sum(numbers(rank, size) for rank in range(3))
    for x in run_peers(3, body):
        assert (x == expected).all()


def test_what_is_ready_goes_before_the_rest_is_made() -> None:
    """The first chunk's sum is there while the second is not made yet."""

    def body(comm: collcomm.Communicator) -> tuple[Array, Array]:
        x = np.full((2, 100), np.nan, np.float32)
        going = comm.triggered_all_reduce(x, chunks=2)
        x[0] = comm.rank + 1
        going.ready(0)
        seen = comm.barrier()  # comes after the first chunk in everybody's order
        assert seen is None and (x[0] == 3).all()
        x[1] = 10
        going.ready(1)
        return x, going.result(20)

    for x, result in run_peers(2, body):
        assert result is x and (x[1] == 20).all()


def test_another_thread_may_mark_and_what_nobody_marks_is_named() -> None:
    def body(comm: collcomm.Communicator) -> str:
        x = np.ones(40, np.float32)
        going = comm.triggered_all_reduce(x, chunks=4)
        for chunk in (0, 1, 3):
            going.ready(chunk)
        with pytest.raises(collcomm.CollectiveTimeout) as caught:
            going.result(0.05)
        with pytest.raises(ValueError, match="chunk 3 was marked"):
            going.ready(3)
        with pytest.raises(IndexError, match="no 4"):
            going.ready(4)
        other = threading.Thread(target=going.ready, args=(2,))
        other.start()
        assert (going.result(20) == 2).all()
        other.join()
        return str(caught.value)

    assert all("chunks [2] were not marked" in text for text in run_peers(2, body))


def test_with_a_codec_all_hold_the_same_bits() -> None:
    def body(comm: collcomm.Communicator) -> bytes:
        x = np.random.default_rng(comm.rank).standard_normal(10_000).astype(np.float32)
        going = comm.triggered_all_reduce(x, op="avg", chunks=3, codec="int8")
        for chunk in (2, 1, 0):
            going.ready(chunk)
        return bytes(going.result(20))

    first, second, third = run_peers(3, body)
    assert first == second == third


@pytest.mark.parametrize(("x", "chunks"), [(np.ones((4, 4))[:, 1:], 2), (np.ones(4), 0), (np.ones(4), 5000)])
def test_what_cannot_be_cut(x: Array, chunks: int) -> None:
    def body(comm: collcomm.Communicator) -> None:
        with pytest.raises(ValueError, match=r"contiguous|chunks must be"):
            comm.triggered_all_reduce(x, chunks=chunks)

    run_peers(1, body)


# ---- weave --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_weaving_changes_nothing(rows: int) -> None:
    def body(comm: collcomm.Communicator) -> tuple[Array, Array, list[str]]:
        order: list[str] = []

        def block(x: Array) -> Generator[Any, Any, Array]:
            order.append(f"begins {len(x)}")
            x = yield comm.all_reduce(x * (comm.rank + 1), async_op=True)
            order.append(f"goes on {len(x)}")
            x = yield comm.all_reduce(x + 1, async_op=True)
            return x * 2

        batch = numbers(7, rows, 5)
        woven = weave(block, batch)
        plain = comm.all_reduce(comm.all_reduce(batch * (comm.rank + 1)) + 1) * 2
        return woven, plain, order

    for woven, plain, order in run_peers(2, body):
        assert (woven == plain).all()
        if rows > 1:
            assert [text.split()[0] for text in order] == ["begins", "begins", "goes", "goes"], "they take turns"


def test_a_half_that_fails_closes_the_other_one() -> None:
    def body(comm: collcomm.Communicator) -> tuple[list[str], float]:
        closed: list[str] = []

        def block(x: Array) -> Generator[Any, Any, Array]:
            try:
                x = yield comm.all_reduce(x, async_op=True)
                if x[0, 0] < 0:
                    raise RuntimeError("cannot go on")
                x = yield comm.all_reduce(x, async_op=True)
                return x
            finally:
                closed.append("closed")

        batch = np.array([[-1.0], [1.0]])
        with pytest.raises(RuntimeError, match="cannot go on"):
            weave(block, batch)
        return closed, float(comm.all_reduce(np.ones(1))[0])

    assert run_peers(2, body) == [(["closed", "closed"], 2.0)] * 2


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        weave(lambda x: (yield), np.empty((0, 3)))


# ---- states of a sequence -----------------------------------------------------------------------------------------------


def linear_attention(q: Array, k: Array, v: Array) -> Array:
    """Causal, of one process: row t sees rows up to t."""
    out, state = np.empty_like(v), np.zeros((k.shape[1], v.shape[1]))
    for t in range(len(q)):
        state = state + np.outer(k[t], v[t])
        out[t] = q[t] @ state
    return out


def test_causal_linear_attention_over_ranks_equals_one_process() -> None:
    n, rows = 4, 6
    q, k, v = (np.random.default_rng(seed).integers(-3, 4, (n * rows, 5)).astype(np.float64) for seed in range(3))

    def body(comm: collcomm.Communicator) -> Array:
        own = slice(comm.rank * rows, (comm.rank + 1) * rows)
        gathered = comm.all_gather((k[own].T @ v[own])[None], async_op=True)
        inner = linear_attention(q[own], k[own], v[own])  # meanwhile
        return inner + q[own] @ combine_before(gathered.result(), comm.rank)

    assert (np.concatenate(run_peers(n, body)) == linear_attention(q, k, v)).all()


def test_states_of_all_others() -> None:
    states = np.arange(12.0).reshape(4, 3)
    for rank in range(4):
        assert (combine_others(states, rank) == states.sum(0) - states[rank]).all()
        assert (combine_before(states, rank) == states[:rank].sum(0)).all()
    assert (combine_others(np.full((1, 2), np.nan), 0) == 0).all(), "nothing of one's own, be it no number"
    with pytest.raises(ValueError, match="rank 4 has no state"):
        combine_before(states, 4)
