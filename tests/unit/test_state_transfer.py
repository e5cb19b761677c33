"""Who sends which chunk to whom, and where the bytes lie."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from collcomm.state import CHUNK_BYTES, Content, plan_transfer


@st.composite
def tasks(draw: st.DrawFn) -> tuple[dict[int, list[int]], list[int], list[int], int]:
    sizes = draw(st.lists(st.integers(1, 100), min_size=1, max_size=40))
    donors = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True))
    laggards = draw(st.lists(st.integers(6, 11), max_size=4, unique=True))
    missing = {
        laggard: sorted(draw(st.sets(st.sampled_from(range(len(sizes))), max_size=len(sizes)))) for laggard in laggards
    }
    return missing, sorted(donors), sizes, draw(st.integers(1, 400))


@given(tasks())
def test_every_missing_chunk_comes_once_and_in_order(
    task: tuple[dict[int, list[int]], list[int], list[int], int],
) -> None:
    missing, donors, sizes, limit = task
    got: dict[int, list[int]] = {laggard: [] for laggard in missing}
    largest = max(sizes)
    for transfer in plan_transfer(missing, donors, sizes, limit):
        assert transfer
        for laggard in missing:
            arriving = [chunk for donor in donors for chunk in transfer.get((donor, laggard), [])]
            assert arriving == sorted(arriving), "what arrives by rank does not lie in order"
            assert sum(sizes[chunk] for chunk in arriving) <= max(limit, largest)
            got[laggard] += arriving
        for donor in donors:
            leaving = sum(sizes[chunk] for (who, _), chunks in transfer.items() if who == donor for chunk in chunks)
            assert leaving <= limit + len(missing) * largest
        assert {donor for donor, _ in transfer} <= set(donors)
    assert got == missing


def test_donors_share_the_work() -> None:
    rounds = plan_transfer({3: list(range(99))}, [0, 1, 2], [10] * 99, 300)
    assert len(rounds) == 4
    assert rounds[0] == {(0, 3): list(range(10)), (1, 3): list(range(10, 20)), (2, 3): list(range(20, 30))}
    assert plan_transfer({3: [5], 4: [5]}, [0, 1], [1] * 6) == [{(0, 3): [5], (1, 4): [5]}]
    assert plan_transfer({}, [0], []) == []


def test_what_lies_together_is_not_copied() -> None:
    state = {"a": np.zeros(3 * CHUNK_BYTES + 5, np.uint8), "b": np.ones(10, np.int16), "t": np.zeros((4, 6)).T}
    content = Content(state)
    assert content.sizes == [CHUNK_BYTES] * 3 + [5, 20, 192]
    piece = content.packed([1, 2, 3])
    assert piece.base is not None and np.shares_memory(piece, state["a"]) and piece.size == 2 * CHUNK_BYTES + 5
    assert content.in_place([0, 2]) is None and content.in_place([3, 4]) is None and content.in_place([]) is None
    assert content.in_place([1, 2, 1, 2]) is None
    assert content.packed([3, 4]).size == 25 and content.packed([]).size == 0


@given(st.integers(1, 5), st.integers(0, 4), st.data())
def test_what_came_too_far_in_front_is_moved_to_its_place(count: int, first: int, data: st.DataObject) -> None:
    """As after an all_to_all in which a sender was lost: the blocks of the others have closed up."""
    array = np.arange(9 * CHUNK_BYTES // 8)
    right = array.copy().view(np.uint8)
    content = Content({"a": array})
    chunks = list(range(first, first + count))
    kept = sorted(data.draw(st.sets(st.sampled_from(chunks), max_size=count)))
    space = content.in_place(chunks)
    assert space is not None
    arrived = np.concatenate([content.chunks[chunk] for chunk in kept]) if kept else np.empty(0, np.uint8)
    space[:] = 255
    space[: arrived.size] = arrived
    content.put(kept, space[: arrived.size])
    for chunk in kept:
        assert (content.chunks[chunk] == right[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]).all()
