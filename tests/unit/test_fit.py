"""From measured links to a plan."""

from __future__ import annotations

import itertools

import pytest
from collcomm.planner.commit import commit_seconds
from collcomm.planner.fit import fit
from collcomm.planner.measured import Measured, Place
from collcomm.planner.strategy import Strategy

from collcomm.collectives import KINDS
from collcomm.membership.messages import checked_plan
from collcomm.membership.plans import plan_message, plan_of
from collcomm.types import LinkRow


def rows_of(n: int, latency: object, bandwidth: object) -> list[LinkRow]:
    return [
        LinkRow(i, j, latency(i, j), bandwidth(i, j))  # type: ignore[operator]
        for i in range(n)
        for j in range(n)
        if i != j
    ]


def places(*hosts: int) -> list[Place]:
    return [Place(member, host) for member, host in enumerate(hosts)]


def test_a_hidden_ring_is_found() -> None:
    ring = (0, 3, 5, 1, 4, 2)
    after = dict(zip(ring, (*ring[1:], 0), strict=True))
    rows = rows_of(6, lambda i, j: 1e-4, lambda i, j: 1e8 if after[i] == j else 1e7 * (1 + (i * j) % 3))
    assert fit(places(*range(6)), rows).order == ring


def test_between_two_sites_the_trunk_is_crossed_once() -> None:
    """Members alternate between the sites."""
    near = [i % 2 for i in range(8)]
    rows = rows_of(
        8,
        lambda i, j: 5e-5 if near[i] == near[j] else 1e-2,
        lambda i, j: 2.4e7 if near[i] == near[j] else 1.2e7,
    )
    plan = fit(places(*range(8)), rows)
    site_of = dict(zip(plan.order, plan.sites, strict=True))
    assert [site_of[member] for member in range(8)] == near
    crossings = sum(a != b for a, b in itertools.pairwise((*plan.sites, plan.sites[0])))
    assert crossings == 2
    large = Strategy(plan, tuple(range(8)), tuple(range(8))).choose("all_reduce", 16 << 20)
    assert large.algorithm == "hierarchical" and len(set(large.parameters["hosts"])) == 2


def test_on_slow_links_little_goes_in_few_rounds_and_much_round_a_ring() -> None:
    plan = fit(places(*range(4)), rows_of(4, lambda i, j: 1e-2, lambda i, j: 6e6))
    strategy = Strategy(plan, tuple(range(4)), tuple(range(4)))
    assert strategy.choose("all_reduce", 64).algorithm in ("doubling", "direct", "star")
    assert strategy.choose("all_reduce", 64).seconds < 0.045  # two rounds there and two to commit
    assert strategy.choose("all_reduce", 64 << 20).seconds == pytest.approx(1.5 * (64 << 20) / 6e6, rel=0.1)


def test_the_present_order_stays_unless_another_is_clearly_better() -> None:
    rows = rows_of(5, lambda i, j: 1e-4, lambda i, j: 1e8 * (1 + 0.001 * ((i * 7 + j * 3) % 5)))
    assert fit(places(*range(5)), rows, previous=(0, 2, 4, 1, 3)).order == (0, 2, 4, 1, 3)


@pytest.mark.parametrize("hosts", [(0, 1), (0, 0), (0, 0, 1), (0, 1, 1, 2, 2), (0, 1, 2, 3, 4, 5, 6)])
def test_every_kind_has_a_choice_for_every_size(hosts: tuple[int, ...]) -> None:
    plan = fit(places(*hosts), rows_of(len(hosts), lambda i, j: 1e-3, lambda i, j: 1e7))
    for kind in KINDS:
        sizes = [choice.nbytes for choice in plan.choices if choice.kind == kind]
        assert sizes[0] == 0 and sizes == sorted(sizes)
        assert all(choice.seconds > 0 for choice in plan.choices)


def test_nothing_measured_is_a_plan_as_well() -> None:
    assert sorted(fit(places(0, 1, 2), []).order) == [0, 1, 2]


def test_one_member_has_no_plan() -> None:
    with pytest.raises(ValueError, match="two members or more"):
        fit(places(0), [])


def test_a_commit_round_takes_a_latency_for_each_doubling() -> None:
    for n, rounds in ((1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3)):
        network = Measured(places(*range(n)), rows_of(n, lambda i, j: 1e-2, lambda i, j: 1e7))
        assert commit_seconds(network) == pytest.approx(rounds * (1e-2 + 2 * network.overhead))


@pytest.mark.parametrize("latency", [1e-4, 3e-3, 1e-1, 60.0])
@pytest.mark.parametrize("rate", [1e3, 1.25e7, 1.25e9, 1e12])
def test_every_plan_can_be_sent_and_takes_time(latency: float, rate: float) -> None:
    rows = rows_of(4, lambda i, j: 5e-5 if i % 2 == j % 2 else latency, lambda i, j: rate)
    plan = fit(places(*range(4)), rows)
    assert all(choice.seconds > 0 for choice in plan.choices)
    assert plan_of(checked_plan(plan_message(plan))).order == plan.order
