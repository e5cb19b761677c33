"""Measured links at the coordinator, and the plan that comes of them."""

from __future__ import annotations

from typing import Any

from collcomm.membership.linktable import LinkTable
from collcomm.membership.traffic import PAUSE_SECONDS, QUIET_SECONDS, Traffic
from collcomm.types import Member, View

PLAN: dict[str, Any] = {
    "revision": 0,
    "order": [1, 3, 2],
    "sites": [0, 0, 0],
    "hub": 1,
    "within": [1, 1, 1],
    "across": [1, 1, 1],
    "choices": [],
}


def view(epoch: int, *ids: int) -> View:
    return View(epoch, tuple(Member(i, f"p{i}", "127.0.0.1", 1) for i in ids))


def row(source: int, target: int, latency: int = 100_000, bandwidth: int = 10**8) -> list[int]:
    return [source, target, latency, bandwidth, 1]


def test_of_two_reports_the_worse_is_believed() -> None:
    table = LinkTable()
    table.report(0.0, 1, [row(1, 2, latency=100_000, bandwidth=10**12)])
    table.report(1.0, 2, [row(1, 2, latency=300_000, bandwidth=10**7)])
    assert table.rows([1, 2]) == [[1, 2, 300_000, 10**7, 1]]


def test_nobody_speaks_of_links_that_are_not_its_own() -> None:
    table = LinkTable()
    table.report(0.0, 3, [row(1, 2), row(3, 3)])
    assert len(table) == 0


def test_noise_is_no_change_and_a_halved_rate_is() -> None:
    table = LinkTable()
    table.report(0.0, 1, [row(1, 2)])
    assert table.changed
    table.changed = False
    table.report(1.0, 1, [row(1, 2, latency=250_000, bandwidth=95_000_000)])
    assert not table.changed
    table.report(2.0, 1, [row(1, 2, bandwidth=47_000_000)])
    assert table.changed
    assert table.ages(5.0) == {(1, 2): 3.0}


def test_a_plan_is_asked_for_once_reports_have_stopped_coming() -> None:
    traffic = Traffic()
    present = view(1, 1, 2, 3)
    assert traffic.tick(0.0, "run", present) == []
    traffic.report(1.0, 1, (1, 2, 3), [row(1, 2)])
    assert traffic.tick(1.0 + QUIET_SECONDS / 2, "run", present) == []
    (asked,) = traffic.tick(1.1 + QUIET_SECONDS, "run", present)
    assert (asked.view, asked.rows, asked.order) == (present, ((1, 2, 100_000, 10**8, 1),), ())
    assert traffic.tick(9.0, "run", present) == []


def test_what_is_new_gets_a_number_and_is_told() -> None:
    traffic = Traffic()
    present = view(1, 1, 2, 3)
    message = traffic.planned(present, present, PLAN)
    assert message is not None and (message["epoch"], message["plan"]["revision"]) == (1, 1)
    assert traffic.plan is not None and traffic.plan["order"] == [1, 3, 2]
    assert traffic.planned(present, present, PLAN) is None
    again = traffic.planned(present, present, {**PLAN, "order": [1, 2, 3]})
    assert again is not None and again["plan"]["revision"] == 2


def test_a_plan_for_an_older_view_is_dropped_and_made_anew() -> None:
    traffic = Traffic()
    old, new = view(1, 1, 2, 3), view(2, 1, 2)
    traffic.report(0.0, 1, (1, 2, 3), [row(1, 2), row(1, 3)])
    assert traffic.tick(1.0, "run", old)
    traffic.view_changed([3])
    assert traffic.planned(old, new, PLAN) is None and traffic.plan is None
    (asked,) = traffic.tick(1.1 + PAUSE_SECONDS, "run", new)
    assert (asked.view, asked.rows) == (new, ((1, 2, 100_000, 10**8, 1),))


def test_a_planner_that_fails_leaves_the_last_plan() -> None:
    traffic = Traffic({**PLAN, "revision": 7})
    present = view(4, 1, 2)
    assert traffic.planned(present, present, None) is None
    assert traffic.plan is not None and traffic.plan["revision"] == 7
    message = traffic.planned(present, present, {**PLAN, "hub": 3})
    assert message is not None and message["plan"]["revision"] == 8


def test_the_order_of_a_large_group_is_searched_for_longer_and_longer() -> None:
    traffic = Traffic()
    present = view(1, *range(1, 21))
    now, efforts = 0.0, []
    traffic.report(now, 1, (1, 2), [row(1, 2)])
    for _ in range(8):
        now += 10 * PAUSE_SECONDS
        for asked in traffic.tick(now, "run", present):
            efforts.append(asked.effort)
            traffic.planned(present, present, PLAN)
    assert efforts == [0, 1, 2, 3]


def test_other_times_alone_make_no_new_plan() -> None:
    traffic, present = Traffic(), view(1, 1, 2, 3)
    choices = [["all_reduce", 0, "ring", 1, 1000]]
    assert traffic.planned(present, present, {**PLAN, "choices": choices}) is not None
    assert traffic.planned(present, present, {**PLAN, "choices": [["all_reduce", 0, "ring", 1, 2000]]}) is None
    assert traffic.planned(present, present, {**PLAN, "choices": [["all_reduce", 0, "star", 1, 1000]]}) is not None
