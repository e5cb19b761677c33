"""Traffic of several groups: rings that cross no more than they must, even loads, paths that follow what was measured."""

from __future__ import annotations

import math
import random
from itertools import product

import pytest
from collcomm.planner.flows import (
    Fabric,
    reweight,
    ring_loads,
    share_links,
    spread_paths,
)
from collcomm.planner.localsearch import links_of
from hypothesis import given, settings
from hypothesis import strategies as st


def _two_leaves(hosts_per_leaf: int = 8, cards: int = 8, paths: tuple[float, ...] = (4e9, 4e9)) -> Fabric:
    """Rank = host * cards + card; each leaf has an uplink to each spine."""
    hosts = [rank // cards for rank in range(2 * hosts_per_leaf * cards)]
    return Fabric([host // hosts_per_leaf for host in hosts], hosts, nic=10e9, paths=paths)


def _crossings(order: tuple[int, ...], fabric: Fabric) -> int:
    return sum(fabric.sites[source] != fabric.sites[target] for source, target in links_of(list(order)))


@pytest.mark.parametrize("seed", range(5))
def test_eight_groups_on_two_leaves_share_the_spines(seed: int) -> None:
    """C4P's case: eight all-reduces at once, one card of each host in every group; hashed paths and unplanned rings collide."""
    fabric = _two_leaves()
    draw = random.Random(seed)
    groups = [tuple(range(card, 128, 8)) for card in range(8)]
    plan = share_links(groups, fabric, [1e9] * 8)
    hashed = {}

    def path_of(group: int, source: int, target: int) -> int:
        return hashed.setdefault((group, source, target), draw.randrange(2))

    shuffled = [tuple(draw.sample(group, len(group))) for group in groups]
    _, at_random = ring_loads(shuffled, fabric, [1e9] * 8, path_of)
    assert at_random >= 1.5 * plan.seconds
    assert all(plan.load[side, leaf, spine] == 4e9 for side, leaf, spine in product(("up", "down"), (0, 1), (0, 1)))
    doors = [plan.load.get((way, host), 0.0) for way in ("leave", "enter") for host in range(16)]
    assert doors == [1e9] * 32


def test_hosts_that_alternate_between_leaves_are_not_visited_in_rank_order() -> None:
    hosts = [rank // 8 for rank in range(128)]
    fabric = Fabric([host % 2 for host in hosts], hosts, nic=10e9, paths=(4e9, 4e9))
    groups = [tuple(range(card, 128, 8)) for card in range(8)]
    _, by_rank = ring_loads(groups, fabric, None, lambda group, source, target: group % 2)
    assert by_rank >= 1.5 * share_links(groups, fabric).seconds


def test_the_doors_of_a_site_are_taken_in_turn_where_rank_order_takes_one() -> None:
    """Rings in rank order cross as rarely, but all of them over the last host of a site and the first of the next."""
    fabric = Fabric([rank // 16 for rank in range(32)], [rank // 4 for rank in range(32)], nic=10e9, edge=1e9)
    groups = [tuple(range(card, 32, 4)) for card in range(4)]
    _, by_rank = ring_loads(groups, fabric)
    plan = share_links(groups, fabric)
    assert by_rank == 4 * plan.seconds
    assert all(plan.load["leave", host] == plan.load["enter", host] == 1 for host in range(8))


def test_a_host_with_a_wider_edge_carries_more_groups_across() -> None:
    edge = {0: 2.0, **dict.fromkeys(range(1, 8), 1.0)}
    plan = share_links([tuple(range(8))] * 10, Fabric([0] * 4 + [1] * 4, nic=100.0, edge=edge))
    for way in ("leave", "enter"):
        assert [plan.load[way, host] for host in range(8)] == [4, 2, 2, 2, 3, 3, 2, 2]
    assert plan.seconds == 3


def test_a_dead_edge_and_a_dead_path_carry_nothing() -> None:
    fabric = Fabric(
        [0, 0, 0, 1, 1, 1], nic=100.0, edge={0: 1.0, 1: 0.0, 2: 1.0, 3: 1.0, 4: math.nan, 5: 1.0}, paths=(0.0, 1.0)
    )
    plan = share_links([tuple(range(6))] * 4, fabric)
    assert not {("leave", 1), ("enter", 1), ("leave", 4), ("enter", 4)} & set(plan.load)
    assert {crossing.path for crossing in plan.crossings} == {1}
    assert math.isfinite(plan.seconds)


def test_sites_are_visited_along_the_wide_trunks() -> None:
    wide = {(0, 2), (2, 1), (1, 3), (3, 0)}
    trunks = {(s, t): 1e9 if (s, t) in wide else 1e7 for s in range(4) for t in range(4) if s != t}
    fabric = Fabric([0, 0, 1, 1, 2, 2, 3, 3], nic=1e10, trunks=trunks)
    (order,) = share_links([range(8)], fabric).orders
    assert [fabric.sites[rank] for rank in order][::2] == [0, 2, 1, 3]


_GROUPS = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 3), min_size=n, max_size=n),
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
        st.lists(st.lists(st.integers(0, n - 1), unique=True, max_size=n), max_size=5),
    )
)


@settings(max_examples=150, deadline=None)
@given(_GROUPS, st.integers(0, 3))
def test_no_ring_crosses_more_often_than_it_must(drawn: tuple, paths: int) -> None:
    sites, slots, groups = drawn
    fabric = Fabric(
        sites, [3 * site + slot for site, slot in zip(sites, slots, strict=True)], 1.0, paths=(1.0,) * paths
    )
    nbytes = [float(number % 3) for number in range(len(groups))]
    plan = share_links(groups, fabric, nbytes)
    assert plan == share_links([list(reversed(group)) for group in groups], fabric, nbytes)
    for group, order in zip(groups, plan.orders, strict=True):
        assert sorted(order) == sorted(group)
        visited, hosts = {sites[rank] for rank in group}, {fabric.host(rank) for rank in group}
        if group:
            assert _crossings(order, fabric) == (len(visited) if len(visited) > 1 else 0)
            changes = sum(fabric.host(source) != fabric.host(target) for source, target in links_of(list(order)))
            assert changes == (len(hosts) if len(hosts) > 1 else 0)
    path_of = {(crossing.group, crossing.source, crossing.target): crossing.path for crossing in plan.crossings}
    load, seconds = ring_loads(plan.orders, fabric, nbytes, lambda *link: path_of[link])
    assert {resource: amount for resource, amount in load.items() if amount} == plan.load and seconds == plan.seconds


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: share_links([(0, 0)], Fabric([0])), "each rank once"),
        (lambda: share_links([(0, 1)], Fabric([0])), "each rank once"),
        (lambda: share_links([(0,)], Fabric([0]), [1.0, 2.0]), "2 groups"),
        (lambda: share_links([(0,)], Fabric([0]), [math.nan]), "makes no sense"),
        (lambda: Fabric([0, 1], [5, 5]), "a host is in one"),
        (lambda: Fabric([0, 1], [5]), "for all"),
        (lambda: Fabric([0], paths=(0.0, -1.0)), "all paths are dead"),
        (lambda: spread_paths([1.0], [0.0, math.nan]), "alive"),
        (lambda: spread_paths([-1.0], [1.0]), "makes no sense"),
        (lambda: spread_paths([1.0], [1.0], before=[]), "in use"),
        (lambda: reweight([1.0], [1.0, 2.0], [1.0]), "for every path"),
        (lambda: reweight([1.0], [1.0], [1.0], smoothing=2), "smoothing"),
    ],
)
def test_what_makes_no_sense_is_said(wrong: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()  # type: ignore[operator]


# -- paths -------------------------------------------------------------------------------------------------------------


def _longest(flows: list[float], paths: list[float], chosen: tuple[int, ...]) -> float:
    return max(
        sum(flow for flow, where in zip(flows, chosen, strict=True) if where == path) / rate
        for path, rate in enumerate(paths)
        if rate
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6),
    st.lists(st.sampled_from([0.0, 1.0, 1.0, 2.0, 5.0]), min_size=1, max_size=3),
)
def test_flows_are_spread_nearly_as_well_as_can_be(flows: list[float], paths: list[float]) -> None:
    alive = [path for path, rate in enumerate(paths) if rate]
    if not alive:
        return
    best = min(_longest(flows, paths, chosen) for chosen in product(alive, repeat=len(flows)))
    chosen = spread_paths(flows, paths)
    assert {paths[path] for path in chosen} <= {1.0, 2.0, 5.0}
    assert _longest(flows, paths, chosen) <= 1.34 * best + 1e-9


def test_two_equal_flows_take_two_paths() -> None:
    assert spread_paths([1e8, 1e8], [5e6, 5e6]) == (0, 1)
    assert spread_paths([1e8] * 4, [5e6, 0.0, 15e6]) == (2, 2, 0, 2)
    assert spread_paths([], [1.0]) == ()


def test_a_plan_in_use_changes_only_where_it_must() -> None:
    flows, even = [4.0, 4.0, 4.0, 4.0], [1.0, 1.0]
    used = (1, 0, 1, 0)
    assert spread_paths(flows, even, before=used) == used
    assert spread_paths(flows, [1.0, 0.97], before=used) == used
    assert spread_paths(flows, [1.0, 0.0], before=used) == (0, 0, 0, 0)
    slower = spread_paths(flows, [1.0, 0.3], before=used)
    assert sum(old != new for old, new in zip(used, slower, strict=True)) == 1 and slower.count(1) == 1


def test_weights_follow_completion_times_and_then_the_flows() -> None:
    weights: tuple[float, ...] = (10.0, 10.0)
    true = (10.0, 5.0)
    flows = [1.0] * 12
    chosen = spread_paths(flows, weights)
    for _ in range(6):
        carried = [float(chosen.count(path)) for path in range(2)]
        weights = reweight(weights, [amount / rate for amount, rate in zip(carried, true, strict=True)], carried)
        chosen = spread_paths(flows, weights, before=chosen)
    assert weights[1] == pytest.approx(5, rel=0.05) and chosen.count(0) == 8


def test_reports_that_make_no_sense_change_nothing_and_a_lost_path_dies() -> None:
    for seconds, nbytes in [
        (0.0, 1.0),
        (-1.0, 1.0),
        (math.nan, 1.0),
        (1.0, 0.0),
        (1.0, math.nan),
        (1.0, math.inf),
        (1.0, -2.0),
    ]:
        assert reweight([7.0], [seconds], [nbytes]) == (7.0,)
    assert reweight([7.0, 7.0], [math.inf, 1.0], [1.0, 7.0]) == (0.0, 7.0)
    assert reweight([8.0], [1.0], [1e12], smoothing=1) == (64.0,)
    assert reweight([0.0], [2.0], [10.0]) == (5.0,)  # it is back
