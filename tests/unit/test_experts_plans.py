"""Plans of sparse collectives over placements."""

from __future__ import annotations

import numpy as np
import pytest
from collcomm.planner.experts import sparse


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
