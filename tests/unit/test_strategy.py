"""What members make of a plan that was made for them, or for others."""

from __future__ import annotations

import itertools

import pytest
from collcomm.planner import choose_across
from collcomm.planner.strategy import LEAST_FRAME, Strategy

from collcomm.collectives import KINDS, generate
from collcomm.engine.cutting import FRAME_BYTES
from collcomm.types import LinkClass, PlannedChoice, TrafficPlan

LAN, WAN = LinkClass(1e-4, 1e8), LinkClass(1e-2, 1e7)
CHOICES = (
    PlannedChoice("all_reduce", 0, "star", 1, 1e-3),
    PlannedChoice("all_reduce", 1 << 16, "ring", 0, 2e-1),
    PlannedChoice("broadcast", 0, "no_such_algorithm", 1, 1e-9),
)


def plan(order: tuple[int, ...] = (1, 3, 2, 4), sites: tuple[int, ...] = (0, 0, 1, 1), hub: int = 3) -> TrafficPlan:
    return TrafficPlan(1, order, sites, hub, LAN, WAN, CHOICES)


def test_the_members_of_the_plan_go_by_it() -> None:
    strategy = Strategy(plan(), (1, 2, 3, 4), (0, 1, 2, 3))
    assert strategy.order == (0, 2, 1, 3) and strategy.sites == (0, 1, 0, 1)
    small, large = strategy.choose("all_reduce", 100), strategy.choose("all_reduce", 1 << 20)
    assert (small.algorithm, small.seconds, small.parameters["order"][0]) == ("star", 1e-3, 2)
    assert (large.algorithm, large.parameters) == ("ring", {"order": (0, 2, 1, 3), "segments": 1})


def test_without_a_plan_nothing_changes() -> None:
    strategy = Strategy(None, (1, 2, 3), (0, 0, 1))
    for kind, nbytes in itertools.product(KINDS, (4, 1 << 12, 1 << 24)):
        assert strategy.choose(kind, nbytes) == choose_across(kind, nbytes, (0, 0, 1))


def test_after_a_death_the_others_stay_in_their_order() -> None:
    strategy = Strategy(plan(), (1, 2, 4), (0, 1, 3))
    assert strategy.order == (0, 1, 2)  # 1, 2, 4
    assert strategy.choose("all_reduce", 100).algorithm == "star"


def test_a_newcomer_stands_behind_those_of_its_host() -> None:
    strategy = Strategy(plan(), (1, 2, 3, 4, 9), (0, 1, 2, 3, 2))
    assert [(1, 2, 3, 4, 9)[rank] for rank in strategy.order] == [1, 3, 9, 2, 4]
    assert strategy.sites[4] == strategy.sites[2]


def test_a_choice_for_four_says_nothing_of_two_or_of_eight() -> None:
    assert Strategy(plan(), (1, 4), (0, 3)).planned("all_reduce", 100) is None
    assert Strategy(plan(), tuple(range(1, 9)), tuple(range(8))).planned("all_reduce", 100) is None


@pytest.mark.parametrize("ids", [(1,), (1, 2), (2, 7, 8), (1, 2, 3, 4), (1, 2, 3, 4, 5, 6, 7, 8, 9), (20, 21)])
@pytest.mark.parametrize("order", [(), (3,), (1, 1, 3), (4, 3, 2, 1), (9, 9, 9), tuple(range(30))])
def test_whatever_the_plan_says_every_kind_can_be_run(ids: tuple[int, ...], order: tuple[int, ...]) -> None:
    strategy = Strategy(plan(order, tuple(i % 2 for i in range(len(order) // 2)), 99), ids, tuple(range(len(ids))))
    assert sorted(strategy.order) == list(range(len(ids)))
    for kind, nbytes in itertools.product(KINDS, (0, 100, 1 << 20)):
        choice = strategy.choose(kind, nbytes)
        for rank in range(len(ids)):
            generate(kind, choice.algorithm, len(ids), rank, **choice.parameters)


def test_frames_are_small_where_connections_are_slow() -> None:
    def frame_bytes(rate: float, streams: int = 1) -> int:
        links = LinkClass(1e-3, rate, streams)
        return Strategy(TrafficPlan(1, (1, 2), (0, 1), 1, links, links), (1, 2), (0, 1)).frame_bytes

    sizes = [frame_bytes(rate) for rate in (1.0, 1e5, 5e6, 1e9, 1e12)]
    assert sizes == sorted(sizes) and sizes[0] == LEAST_FRAME and sizes[-1] == FRAME_BYTES
    assert frame_bytes(2e7, 8) == frame_bytes(2.5e6) < frame_bytes(2e7)


def test_a_group_on_one_site_is_planned_by_the_links_of_that_site() -> None:
    whole = plan((1, 2, 3, 4), (0, 0, 0, 1))
    near = Strategy(whole, (1, 2), (0, 1)).choose("all_reduce", 1 << 20)
    far = Strategy(whole, (1, 4), (0, 3)).choose("all_reduce", 1 << 20)
    assert near.seconds < 0.05 < far.seconds


def test_a_group_on_one_site_keeps_its_measured_order_beside_others() -> None:
    whole = plan((1, 4, 2, 3, 5), (0, 0, 0, 0, 1))
    assert Strategy(whole, (1, 2, 3, 4), (0, 1, 2, 3), beside=[(1, 5)]).order == (0, 3, 1, 2)


def test_groups_beside_each_other_cross_at_different_members() -> None:
    whole = plan((1, 2, 3, 4, 5, 6, 7, 8), (0, 0, 0, 0, 1, 1, 1, 1))
    first, second = (1, 2, 5, 6), (1, 2, 5, 6)

    def crossing(beside: list[tuple[int, ...]]) -> set[tuple[int, int]]:
        order = [second[rank] for rank in Strategy(whole, second, (0, 1, 2, 3), beside).order]
        return {(a, b) for a, b in itertools.pairwise((*order, order[0])) if (a < 5) != (b < 5)}

    assert not crossing([]) & crossing([first])
