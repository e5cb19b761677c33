"""Tokens and weights of experts over a communicator: outputs, bytes, and members that die between plan and call."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from collcomm.planner.experts import sparse

import collcomm
from collcomm.experts import (
    exchange_tokens,
    plan_dispatch,
    return_tokens,
    sparse_all_gather,
    sparse_reduce_scatter,
)
from tests.support.peers import run_peers

EXPERTS, WIDTH, HIDDEN, TOKENS = 8, 16, 32, 600
HOME = [expert * 4 // EXPERTS for expert in range(EXPERTS)]


def weights_of(expert: int) -> np.ndarray:
    return np.random.default_rng(100 + expert).standard_normal((WIDTH, HIDDEN)).astype(np.float32)


def routed(rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens by expert, and the experts; most go to experts 0 and 1, both on rank 0."""
    rng = np.random.default_rng(rank)
    experts = np.sort(np.where(rng.random(TOKENS) < 0.7, rng.integers(0, 2, TOKENS), rng.integers(0, EXPERTS, TOKENS)))
    return rng.standard_normal((TOKENS, WIDTH)).astype(np.float32), experts


def test_outputs_are_those_of_the_dense_model_and_bytes_those_of_the_formula() -> None:
    def body(comm: collcomm.Communicator) -> dict[str, Any]:
        tokens, experts = routed(comm.rank)
        plan = plan_dispatch(comm, np.bincount(experts, minlength=EXPERTS), HOME, chunk=64)
        assert plan.dispatch.spilled and plan.dispatch.imbalance <= 1 + 64 / TOKENS
        own = [[device == home for device in range(4)] for home in HOME]
        spread = sparse.gather(own, plan.dispatch.placement, [WIDTH * HIDDEN] * EXPERTS, epoch=comm.view.epoch)
        before = comm.stats()["bytes_sent"]
        mine = {expert: weights_of(expert) for expert in range(EXPERTS) if HOME[expert] == comm.rank}
        held = sparse_all_gather(comm, mine, spread)
        arrived = exchange_tokens(comm, tokens, plan)
        assert arrived.rows == plan.dispatch.tokens[comm.rank]
        results = {expert: rows @ held[expert].reshape(WIDTH, HIDDEN) for expert, rows in arrived.tokens.items()}
        back = return_tokens(comm, results, plan, (HIDDEN,))
        sent = comm.stats()["bytes_sent"] - before
        expected = np.stack([token @ weights_of(expert) for token, expert in zip(tokens, experts, strict=True)])
        np.testing.assert_allclose(back, expected, rtol=1e-4, atol=1e-4)

        # Gradients of the weights go home the same way.
        partial = {expert: rows.T @ results[expert] for expert, rows in arrived.tokens.items()}
        used = [[False] * 4 for _ in range(EXPERTS)]
        for expert, shares in enumerate(plan.dispatch.shares):
            for share in shares:
                used[expert][share.device] = True
        home = sparse.scatter(used, own, spread.sizes, epoch=comm.view.epoch)
        return {"plan": plan, "sent": sent, "sums": sparse_reduce_scatter(comm, partial, home)}

    found = run_peers(4, body, transports=["tcp"])
    plans = [peer["plan"] for peer in found]
    assert all(plan == plans[0] for plan in plans)
    plan = plans[0]
    away = plan.total - plan.local
    assert plan.token_bytes(WIDTH * 4) == 2 * away * WIDTH * 4
    payload = away * (WIDTH + HIDDEN) * 4 + plan.weight_bytes(WIDTH * HIDDEN * 4)
    sent = sum(peer["sent"] for peer in found)
    assert payload <= sent <= payload * 1.02 + 4 * 3 * 4096, "beyond the formula there are only headers"
    every = [routed(rank) for rank in range(4)]
    for rank, peer in enumerate(found):
        assert sorted(peer["sums"]) == [expert for expert in range(EXPERTS) if HOME[expert] == rank]
        for expert, total in peer["sums"].items():
            rows = np.concatenate([tokens[experts == expert] for tokens, experts in every])
            np.testing.assert_allclose(
                total, (rows.T @ (rows @ weights_of(expert))).ravel(), rtol=1e-3, atol=2e-2, err_msg=f"expert {expert}"
            )


def test_all_keepers_of_a_sum_have_the_same_bits() -> None:
    def body(comm: collcomm.Communicator) -> bytes:
        everywhere = [[True] * 3] * 2
        plan = sparse.scatter(everywhere, everywhere, [50, 0], epoch=comm.view.epoch)
        part = np.random.default_rng(comm.rank).standard_normal(50).astype(np.float32)
        kept = part.copy()
        sums = sparse_reduce_scatter(comm, {0: part, 1: np.empty(0, np.float32)}, plan)
        np.testing.assert_array_equal(part, kept)
        return sums[0].tobytes()

    assert len(set(run_peers(3, body))) == 1


def test_ranks_without_tokens_and_rows_of_any_shape() -> None:
    def body(comm: collcomm.Communicator) -> None:
        counts = [5, 0, 3] if comm.rank == 1 else [0, 0, 0]
        plan = plan_dispatch(comm, counts, [0, 1, 2], chunk=1000)
        tokens = np.arange(sum(counts) * 6, dtype=np.float64).reshape(-1, 2, 3)
        arrived = exchange_tokens(comm, tokens, plan)
        assert {expert: len(rows) for expert, rows in arrived.tokens.items()} == [{0: 5}, {}, {2: 3}][comm.rank]
        back = return_tokens(comm, {e: rows + e for e, rows in arrived.tokens.items()}, plan, (2, 3), np.float64)
        np.testing.assert_array_equal(back, tokens + np.repeat(range(3), counts)[:, None, None])

    run_peers(3, body)


@pytest.mark.parametrize("on_failure", ["retry", "raise"])
def test_a_death_between_plan_and_call(on_failure: str) -> None:
    gone = threading.Event()

    def body(comm: collcomm.Communicator) -> None:
        tokens, experts = routed(comm.rank)
        counts = np.bincount(experts, minlength=EXPERTS)
        plan = plan_dispatch(comm, counts, HOME, chunk=64)
        if comm.rank == 3:
            comm.close()
            gone.set()
            return
        assert gone.wait(20)
        kept = tokens.copy()
        expected = collcomm.ViewChanged if on_failure == "retry" else collcomm.PeerLost
        with pytest.raises(
            expected, match=r"view 1 to view 2 with 3 members.*plan again" if on_failure == "retry" else None
        ):
            exchange_tokens(comm, tokens, plan, timeout=20)
        np.testing.assert_array_equal(tokens, kept)
        for call in (
            lambda: exchange_tokens(comm, tokens, plan),
            lambda: return_tokens(comm, {}, plan, (WIDTH,)),
        ):
            with pytest.raises(collcomm.ViewChanged, match="the plan was made for view 1, this is view 2; plan again"):
                call()
        again = plan_dispatch(comm, counts, [expert % 3 for expert in range(EXPERTS)], chunk=64)
        arrived = exchange_tokens(comm, tokens, again)
        back = return_tokens(comm, arrived.tokens, again, (WIDTH,))
        np.testing.assert_array_equal(back, tokens)

    run_peers(4, body, on_failure=on_failure)


def test_a_death_before_the_counts_are_there_and_a_plan_of_weights_for_an_older_view() -> None:
    gone = threading.Event()

    def body(comm: collcomm.Communicator) -> None:
        plan = sparse.gather([[True, False, False]], [[True] * 3], [4], epoch=comm.view.epoch)
        comm.barrier()
        if comm.rank == 2:
            comm.close()
            gone.set()
            return
        assert gone.wait(20)
        with pytest.raises(collcomm.ViewChanged, match="the counts: the membership changed"):
            plan_dispatch(comm, [1, 2], [0, 1])
        with pytest.raises(collcomm.ViewChanged, match="sparse_all_gather: the plan was made for view 1"):
            sparse_all_gather(comm, {0: np.zeros(4, np.float32)}, plan)

    run_peers(3, body)


def test_what_does_not_fit_the_plan_is_refused() -> None:
    def body(comm: collcomm.Communicator) -> None:
        plan = plan_dispatch(comm, [2], [0])
        with pytest.raises(ValueError, match="expected 2 tokens of rank 0"):
            exchange_tokens(comm, np.zeros((3, 1)), plan)
        with pytest.raises(ValueError, match="expert 0 needs rows of shape"):
            return_tokens(comm, {0: np.zeros((2, 5))}, plan, (4,))
        with pytest.raises(ValueError, match="one number for each of 2 experts"):
            plan_dispatch(comm, [2], [0, 0])
        weights = sparse.gather([[True]], [[True]], [4], epoch=comm.view.epoch)
        with pytest.raises(ValueError, match="has chunk 0: give it"):
            sparse_all_gather(comm, {}, weights)
        with pytest.raises(ValueError, match=r"of sparse\.gather"):
            sparse_reduce_scatter(comm, {}, weights)
        gradients = sparse.scatter([[True]], [[True]], [4], epoch=comm.view.epoch)
        with pytest.raises(ValueError, match="4 elements of float32, not 4 of float64"):
            sparse_reduce_scatter(comm, {0: np.zeros(4)}, gradients)

    run_peers(1, body)


def test_a_plan_for_fewer_ranks_is_refused_at_those_that_it_does_not_know() -> None:
    def body(comm: collcomm.Communicator) -> None:
        gather = sparse.gather([[True]], [[True]], [4], epoch=comm.view.epoch)
        scatter = sparse.scatter([[True]], [[True]], [4], epoch=comm.view.epoch)
        with pytest.raises(ValueError, match="sparse_all_gather: the plan is for 1 ranks, the communicator has 2"):
            sparse_all_gather(comm, {0: np.zeros(4, np.float32)}, gather)
        with pytest.raises(ValueError, match="sparse_reduce_scatter: the plan is for 1 ranks"):
            sparse_reduce_scatter(comm, {0: np.zeros(4, np.float32)}, scatter)

    run_peers(2, body)
