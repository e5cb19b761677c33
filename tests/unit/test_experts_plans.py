"""Plans of sparse collectives over placements, and of exchanges among ranks on several hosts."""

from __future__ import annotations

import numpy as np
import pytest
from collcomm.planner.choice import Links
from collcomm.planner.experts import choose_exchange, sparse, two_levels


def placement(rng: np.random.Generator, chunks: int, devices: int, share: float) -> np.ndarray:
    """Every chunk somewhere."""
    there = rng.random((chunks, devices)) < share
    there[np.arange(chunks), rng.integers(0, devices, chunks)] = True
    return there


@pytest.mark.parametrize("devices", [1, 2, 5, 16])
def test_gather_brings_the_placement_about(devices: int) -> None:
    rng = np.random.default_rng(devices)
    held, wanted = placement(rng, 40, devices, 0.2), placement(rng, 40, devices, 0.5)
    sizes = rng.integers(0, 50, 40)
    plan = sparse.gather(held.tolist(), wanted.tolist(), sizes.tolist())
    there = held.copy()
    for chunk, source, target in plan.moves:
        assert held[chunk, source] and not there[chunk, target]
        there[chunk, target] = True
    np.testing.assert_array_equal(there, held | wanted)
    np.testing.assert_array_equal(plan.after, held | wanted)
    assert plan.nbytes(4) == 4 * ((there.sum(1) - held.sum(1)) * sizes).sum()
    matrix = np.array(plan.matrix)
    assert matrix.sum() * 4 == plan.nbytes(4) and not matrix.diagonal().any()


def test_sources_share_the_load() -> None:
    held = [[device < 4 for device in range(8)]] * 12  # all chunks on four devices
    plan = sparse.gather(held, [[True] * 8] * 12, [100] * 12)
    assert [sum(row) for row in plan.matrix] == [1200] * 4 + [0] * 4
    only_one = [[True, False, False], [True, True, False]]
    plan = sparse.gather(only_one, [[True] * 3] * 2, [10, 10])
    assert [move for move in plan.moves if move.chunk == 1] == [(1, 1, 2)], "device 0 has chunk 0 to send"


def test_scatter_goes_back_to_all_keepers() -> None:
    rng = np.random.default_rng(5)
    kept, used = placement(rng, 30, 6, 0.1), placement(rng, 30, 6, 0.4)
    plan = sparse.scatter(used.tolist(), kept.tolist(), [8] * 30)
    assert {tuple(move) for move in plan.moves} == {
        (c, s, t) for c in range(30) for s in range(6) for t in range(6) if used[c, s] and kept[c, t] and s != t
    }
    assert plan.nbytes(2) == 2 * 8 * (kept.sum(1) * used.sum(1) - (kept & used).sum(1)).sum()


def test_chunks_that_nobody_has_or_keeps() -> None:
    with pytest.raises(ValueError, match="nobody holds chunk 1, which device 0 wants"):
        sparse.gather([[True], [False]], [[True], [True]], [1, 1])
    with pytest.raises(ValueError, match="nobody keeps chunk 0"):
        sparse.scatter([[True]], [[False]], [1])
    with pytest.raises(ValueError, match="nobody has a partial sum of chunk 0"):
        sparse.scatter([[False]], [[True]], [1])
    for held, wanted, sizes in (([[True]], [[True, True]], [1]), ([[True]], [[True]], []), ([], [], [])):
        with pytest.raises(ValueError, match=r"placements|sizes"):
            sparse.gather(held, wanted, sizes)


HOSTS = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]


def test_two_levels_deliver_what_is_due_with_one_message_per_pair_of_hosts() -> None:
    rng = np.random.default_rng(0)
    due = rng.integers(1, 1000, (11, 11))
    plan = two_levels(due.tolist(), HOSTS)
    host = np.array(HOSTS)
    far = host[:, None] != host
    collect, cross, spread = (np.array(matrix) for matrix in (plan.collect, plan.cross, plan.spread))
    assert not collect[far].any() and not spread[far].any() and not cross[~far].any()
    for here in range(3):
        for there in range(3):
            messages = cross[np.ix_(host == here, host == there)]
            assert np.count_nonzero(messages) == (here != there)
            assert messages.sum() == (due[np.ix_(host == here, host == there)].sum() if here != there else 0)
    near_due = np.where(far, 0, due)
    np.testing.assert_array_equal((collect - near_due).sum(1), np.where(far, due, 0).sum(1))
    np.testing.assert_array_equal(spread.sum(0), np.where(far, due, 0).sum(0))
    flow = collect.sum(0) - near_due.sum(0) - cross.sum(1)
    assert not flow.any(), "who speaks for the host sends on what it was handed"


def test_small_blocks_to_many_go_in_two_levels_and_large_ones_directly() -> None:
    hosts = [rank // 8 for rank in range(32)]
    within, across = Links(1e-6, 10e9), Links(100e-6, 1e9)

    def chosen(nbytes: int) -> tuple[str, float]:
        choice = choose_exchange([[nbytes] * 32 for _ in range(32)], hosts, within, across)
        return choice.algorithm, choice.seconds

    name, seconds = chosen(100)
    assert name == "two_level"
    # 7 messages within, 1 across by the busiest rank, 7 within, and the bytes of a host
    assert seconds == pytest.approx(7e-6 + 100e-6 + 7e-6 + 8 * 24 * 100 / 1e9, rel=0.02)
    name, seconds = chosen(10_000_000)
    assert name == "direct"
    assert seconds == pytest.approx(8 * 24 * 10e6 / 1e9, rel=0.05)
    assert choose_exchange([[9] * 4] * 4, [0] * 4).algorithm == "direct"
    assert choose_exchange([[9] * 4] * 4, range(4)).algorithm == "direct"
