"""Rings of several groups at once: each crosses no more than it must, and no rank carries more crossings than it must."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest
from collcomm.planner.flows import share_links
from collcomm.planner.localsearch import links_of
from collcomm.planner.order import normal
from hypothesis import given, settings
from hypothesis import strategies as st


def _crossings(orders: Sequence[Sequence[int]], sites: Sequence[int]) -> Counter[tuple[str, int, int, int]]:
    """By way (out or in), site left, site entered and rank."""
    found: Counter[tuple[str, int, int, int]] = Counter()
    for order in orders:
        for source, target in links_of(list(order)) if len(order) > 1 else []:
            if sites[source] != sites[target]:
                found["out", sites[source], sites[target], source] += 1
                found["in", sites[source], sites[target], target] += 1
    return found


def _most(orders: Sequence[Sequence[int]], sites: Sequence[int]) -> int:
    return max(_crossings(orders, sites).values())


@pytest.mark.parametrize("seed", range(5))
def test_eight_groups_on_two_leaves(seed: int) -> None:
    """C4P's case: eight all-reduces at once on sixteen hosts under two leaves."""
    sites, groups = [rank // 8 for rank in range(16)], [range(16)] * 8
    draw = random.Random(seed)
    planned = share_links(groups, sites)
    assert _most(planned, sites) == 1
    assert _most(groups, sites) >= 1.5 * _most(planned, sites)
    at_random = [tuple(draw.sample(group, len(group))) for group in groups]
    assert _most(at_random, sites) >= 1.5 * _most(planned, sites)
    assert _crossings(at_random, sites).total() >= 1.5 * _crossings(planned, sites).total()


def test_hosts_that_alternate_between_leaves_are_not_visited_in_rank_order() -> None:
    sites = [rank % 2 for rank in range(16)]
    (order,) = share_links([range(16)], sites)
    assert order == (*range(0, 16, 2), *range(1, 16, 2))


def test_the_first_group_runs_what_it_would_run_alone() -> None:
    sites = [0, 0, 0, 1, 1, 1, 2, 2]
    order = (2, 7, 6, 4, 3, 5, 1, 0)  # begins in the middle of a site
    first, later = share_links([(0, 1, 2, 3, 4, 6, 7), range(8)], sites, order)
    assert first == normal(rank for rank in order if rank != 5)
    assert [sites[rank] for rank in first] == [0, 0, 2, 2, 1, 1, 0]
    assert later == (0, 2, 1, 6, 7, 3, 4, 5)  # the first enters at 1, 7 and 4 and leaves at 2, 6 and 3


def test_an_order_that_crosses_more_often_is_mended() -> None:
    sites = [0, 1, 0, 1, 0]
    assert share_links([range(5)], sites, (4, 1, 0, 3, 2)) == ((0, 2, 4, 1, 3),)


def test_a_group_within_a_site_keeps_the_order_and_loads_nobody() -> None:
    sites, order = [0, 0, 0, 1, 1, 1], (0, 2, 1, 5, 3, 4)
    assert share_links([(0, 1, 2), range(6)], sites, order) == ((0, 2, 1), order)
    assert share_links([(), (3,), range(6)], sites, order) == ((), (3,), order)


_DRAWN = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.permutations(range(n)),
        st.lists(st.lists(st.integers(0, n - 1), unique=True, max_size=n), max_size=6),
    )
)


@settings(max_examples=150, deadline=None)
@given(_DRAWN)
def test_no_ring_crosses_more_often_than_it_must_and_no_earlier_one_depends_on_a_later(drawn: tuple) -> None:
    sites, order, groups = drawn
    plan = share_links(groups, sites, order)
    assert plan == share_links([list(reversed(group)) for group in groups], sites, order)
    for number, (group, ring) in enumerate(zip(groups, plan, strict=True)):
        assert sorted(ring) == sorted(group) and ring == normal(ring)
        visited = {sites[rank] for rank in group}
        assert _crossings([ring], sites).total() == (2 * len(visited) if len(visited) > 1 else 0)
        assert share_links(groups[: number + 1], sites, order) == plan[: number + 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 12), st.integers(2, 6), st.integers(2, 3))
def test_equal_groups_load_all_ranks_alike(count: int, size: int, places: int) -> None:
    """As evenly as can be: no rank carries more than one crossing more than another, but for pairs that must differ."""
    sites = [rank // size for rank in range(size * places)]
    plan = share_links([range(size * places)] * count, sites)
    most = -(-count // size)
    assert _most(plan, sites) <= most + 1
    assert _most(plan, sites) == most or count > size - 1


@pytest.mark.parametrize(
    ("groups", "sites", "order", "said"),
    [
        ([(0, 0)], [0], (), "each rank once"),
        ([(0, 1)], [0], (), "each rank once"),
        ([(0,)], [0, 0], (1, 1), "order must hold"),
        ([(0,)], [0, 0], (1,), "order must hold"),
    ],
)
def test_what_makes_no_sense_is_said(groups: list, sites: list[int], order: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        share_links(groups, sites, order)
