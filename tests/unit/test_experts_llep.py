"""Least-loaded expert parallelism: the bound on the load, what has to travel, and that nothing is lost on the way."""

from __future__ import annotations

import numpy as np
import pytest
from collcomm.planner.experts import Dispatch, dispatch, exchange
from hypothesis import given, settings
from hypothesis import strategies as st

DEVICES, EXPERTS, TOKENS, CHUNK = 8, 128, 32_768, 1024
CONTIGUOUS = [expert * DEVICES // EXPERTS for expert in range(EXPERTS)]
STRIDED = [expert % DEVICES for expert in range(EXPERTS)]


def routed(percent: int, hot: int, seed: int = 0) -> np.ndarray:
    """[source, token] -> expert: ``percent`` of each source's tokens go to the first ``hot`` experts."""
    rng = np.random.default_rng(seed)
    popular = rng.random((DEVICES, TOKENS // DEVICES)) < percent / 100
    return np.where(popular, rng.integers(0, hot, popular.shape), rng.integers(hot, EXPERTS, popular.shape))


def counted(experts: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(row, minlength=EXPERTS) for row in experts])


def device_of_each(plan: Dispatch, experts: np.ndarray) -> np.ndarray:
    """Token by token, as the shares say: an expert's tokens are numbered source by source."""
    seen = [0] * EXPERTS
    found = np.empty(experts.shape, int)
    for source, row in enumerate(experts):
        for token in np.argsort(row, kind="stable"):
            expert = row[token]
            (found[source, token],) = (s.device for s in plan.shares[expert] if s.start <= seen[expert] < s.stop)
            seen[expert] += 1
    return found


@pytest.mark.parametrize("home", [CONTIGUOUS, STRIDED], ids=["contiguous", "strided"])
@pytest.mark.parametrize("hot", [1, 4, 16])
@pytest.mark.parametrize("percent", [30, 50, 80, 95])
def test_load_outputs_and_bytes(percent: int, hot: int, home: list[int]) -> None:
    experts = routed(percent, hot)
    counts = counted(experts)
    mean = TOKENS / DEVICES
    plan = dispatch(counts.sum(0), home, DEVICES)
    plain = np.bincount(home, counts.sum(0), DEVICES)
    assert plan.spilled == (plain.max() / mean >= 1.3)
    assert plan.imbalance <= (1 + CHUNK / mean if plan.spilled else 1.3)
    assert plan.spilled or home is STRIDED, "hot experts that share a device overload it"

    moved = exchange(plan, counts)
    devices = device_of_each(plan, experts)
    sources = np.arange(DEVICES)[:, None]
    assert moved.token_bytes(100) == 2 * 100 * np.count_nonzero(devices != sources)
    used = {(int(e), int(d)) for e, d in zip(experts.ravel(), devices.ravel(), strict=True)}
    assert moved.weight_bytes(7) == 7 * sum(device != home[expert] for expert, device in used)
    np.testing.assert_array_equal(plan.tokens, np.bincount(devices.ravel(), minlength=DEVICES))
    placed = np.array(plan.placement)
    assert all(placed[expert, device] for expert, device in used)

    # What each device computes on what it is sent, back where it came from, is what one process computes.
    rng = np.random.default_rng(1)
    weights, tokens = rng.standard_normal((EXPERTS, 4)), rng.standard_normal((*experts.shape, 4))
    order = np.argsort(experts, axis=1, kind="stable")
    outputs = np.zeros_like(tokens)
    for piece in moved.pieces:
        rows = order[piece.source, piece.start : piece.start + piece.tokens]
        assert (experts[piece.source, rows] == piece.expert).all()
        assert (devices[piece.source, rows] == piece.device).all()
        outputs[piece.source, rows] += tokens[piece.source, rows] * weights[piece.expert]
    np.testing.assert_array_equal(outputs, tokens * weights[experts])


def test_as_few_tokens_leave_their_device_as_the_capacity_allows() -> None:
    counts = counted(routed(80, 4))
    loads, capacity = counts.sum(0), TOKENS // DEVICES
    plan = dispatch(loads, CONTIGUOUS, DEVICES)
    away = sum(s.tokens for e, shares in enumerate(plan.shares) for s in shares if s.device != CONTIGUOUS[e])
    excess = int(sum(max(0, load - capacity) for load in np.bincount(CONTIGUOUS, loads, DEVICES)))
    assert excess - CHUNK < away <= excess + CHUNK
    assert {copy.expert for copy in plan.copies} <= set(range(4)), "the largest go, the small ones stay"


def test_balanced_loads_stay_at_home() -> None:
    plan = dispatch([10, 12, 9, 9], [0, 1, 2, 3], 4)
    assert not plan.spilled and not plan.copies and plan.tokens == (10, 12, 9, 9)
    assert dispatch([0, 0], [0, 1], 2).imbalance == 1
    alone = dispatch([5000, 0], [0, 0], 1)
    assert alone.tokens == (5000,) and not alone.copies


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda devices: st.tuples(
            st.just(devices),
            st.lists(st.tuples(st.integers(0, 9000), st.integers(0, devices - 1)), min_size=1, max_size=40),
        )
    ),
    st.sampled_from([1, 10, 1024]),
    st.sampled_from([1.0, 1.1, 2.5]),
)
def test_the_bound_holds_for_any_loads(where: tuple[int, list[tuple[int, int]]], chunk: int, alpha: float) -> None:
    devices, experts = where
    loads, home = [load for load, _ in experts], [device for _, device in experts]
    plan = dispatch(loads, home, devices, chunk=chunk, alpha=alpha)
    for load, shares in zip(loads, plan.shares, strict=True):
        edges = sorted((share.start, share.stop) for share in shares)
        assert [start for start, _ in edges] == [0, *(stop for _, stop in edges)][: len(edges)]
        assert sum(share.tokens for share in shares) == load and all(share.tokens for share in shares)
        assert len({share.device for share in shares}) == len(shares)
    mean = sum(loads) / devices
    if plan.spilled:
        assert max(plan.tokens) <= alpha * mean + chunk + 1e-6
    else:
        assert not plan.copies
    assert plan == dispatch(loads, home, devices, chunk=chunk, alpha=alpha)


def test_chunks_are_worth_a_copy() -> None:
    """Fewer tokens than a chunk travel only where an expert has no more, or no more left."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        loads = rng.zipf(1.5, 64).clip(max=60_000)
        plan = dispatch(loads, [e // 8 for e in range(64)], 8)
        for expert, shares in enumerate(plan.shares):
            small = [s for s in shares if s.device != expert // 8 and s.tokens < CHUNK]
            assert len(small) <= 1
            assert not small or loads[expert] < CHUNK or all(s.device != expert // 8 for s in shares)


def test_what_makes_no_sense_is_refused() -> None:
    for loads, home, devices in (([1], [0, 1], 2), ([-1], [0], 1), ([1], [2], 2), ([], [], 2), ([1], [0], 0)):
        with pytest.raises(ValueError, match=r"loads|home|devices"):
            dispatch(loads, home, devices)
    for options in ({"alpha": 0.9}, {"alpha": float("nan")}, {"chunk": 0}):
        with pytest.raises(ValueError, match="alpha"):
            dispatch([1], [0], 1, **options)  # type: ignore[arg-type]
    plan = dispatch([3, 3], [0, 1], 2)
    with pytest.raises(ValueError, match="expert 1 has 2 tokens, the dispatch is for 3"):
        exchange(plan, [[2, 1], [1, 1]])
    with pytest.raises(ValueError, match="2 sources with 2 experts"):
        exchange(plan, [[3, 3]])
