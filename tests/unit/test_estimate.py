"""The rate of a link from traces of what a shaped, a slow-starting, or a busy receiver sees."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from collcomm.planner.estimate import (
    BUSY_SECONDS,
    BUSY_TRIPS,
    DUTY,
    LOCAL_SECONDS,
    RateEstimate,
    believed,
    fewest_streams,
    pause_after,
    train_budget,
)
from collcomm.planner.meter import TrafficMeter

from collcomm.types import LinkRow

STEP = 2e-4


def played(curve: Callable[[float], float], enough: float = 0.06, limit: float = 0.5) -> RateEstimate:
    """An estimate that has seen ``curve``: bytes by seconds, until it settled."""
    estimate = RateEstimate(LOCAL_SECONDS[0], enough)
    now = 0.0
    while not estimate.settled and now < limit:
        estimate.add(now, int(curve(now)))
        now += STEP
    return estimate


def bucket(rate: float, burst: float = 256 << 10, line: float = 1.25e9) -> Callable[[float], float]:
    """A token bucket lets ``burst`` bytes through at the line's speed."""
    full = burst / (line - rate)
    return lambda now: min(line * now, line * full + rate * (now - full)) if now > full else line * now


@pytest.mark.parametrize("rate", [1e6, 2.5e6, 12.5e6, 125e6])
@pytest.mark.parametrize("burst", [256 << 10, 512 << 10])
def test_a_token_bucket_does_not_count(rate: float, burst: int) -> None:
    estimate = played(bucket(rate, burst))
    assert estimate.rate == pytest.approx(rate, rel=0.05)
    assert estimate.seconds <= 0.12


def test_a_steady_link_settles_at_once() -> None:
    estimate = played(lambda now: 1.25e9 * now)
    assert estimate.seconds <= LOCAL_SECONDS[0] + 2 * STEP and estimate.rate == pytest.approx(1.25e9, rel=0.02)


@pytest.mark.parametrize(("busy", "off"), [(False, 0.1), (True, 0.2)])
def test_a_slow_start_does_not_count(busy: bool, off: float) -> None:
    trip, rate = 0.04, 25e6
    budget = train_budget(trip / 2, busy)

    def slow_start(now: float) -> float:  # 16 KB in the first round trip, then double until the link is full
        total, window = 0.0, 16e3
        for number in range(int(now / trip) + 1):
            share = min(1.0, now / trip - number)
            total += share * min(window, rate * trip)
            window *= 2
        return total

    estimate = RateEstimate(budget.least, budget.enough)
    now = 0.0
    while not estimate.settled and now < budget.most:
        estimate.add(now, int(slow_start(now)))
        now += trip / 100
    assert estimate.rate == pytest.approx(rate, rel=off)
    assert slow_start(now) / now < 0.8 * rate, "the whole train would say much less"


def test_a_late_end_does_not_count() -> None:
    estimate = RateEstimate(*LOCAL_SECONDS)
    for number in range(100):
        estimate.add(number * STEP, number * 20_000)
    estimate.add(120 * STEP, 100 * 20_000)
    assert estimate.rate == pytest.approx(1e8, rel=0.01)


def test_a_rate_that_changes_does_not_settle_before_enough_time() -> None:
    estimate = played(lambda now: 5e10 * now**3)
    assert estimate.seconds >= LOCAL_SECONDS[1] - STEP


def test_little_to_go_by_is_said_to_be_little() -> None:
    estimate = RateEstimate(*LOCAL_SECONDS)
    assert estimate.rate == 0.0 and not estimate.settled
    estimate.add(1.0, 4096)
    assert estimate.rate == 0.0
    estimate.add(1.0, 8192)
    assert estimate.rate == 0.0
    estimate.add(2.0, 12288)
    assert 0 < estimate.rate <= 12288 and not estimate.settled


def test_a_long_trace_is_thinned_and_says_the_same() -> None:
    estimate = RateEstimate(10.0, 20.0)
    for number in range(200_000):
        estimate.add(number * 1e-5, number * 100)
    assert len(estimate._times) <= 513
    assert estimate.rate == pytest.approx(1e7, rel=0.01)


def test_while_operations_run_trains_are_short_and_rest_long() -> None:
    for latency in (1e-4, 2e-2, 0.2):
        budget = train_budget(latency, busy=True)
        assert budget.most <= max(BUSY_SECONDS, BUSY_TRIPS * 2 * latency)
        assert budget.least <= budget.enough <= budget.most <= 2.0
        free = train_budget(latency, busy=False)
        assert free.least <= free.enough <= free.most <= 2.0
    for took in (0.01, BUSY_SECONDS):
        assert took / (took + pause_after(took, busy=True)) <= DUTY + 1e-9
    assert pause_after(0.1, busy=False) == 0.0


def test_a_receiver_that_exaggerates_is_not_believed() -> None:
    assert believed(5e8, 1e8) == 1e8
    assert believed(1.2e8, 1e8) == 1.2e8
    assert believed(1e7, 1e8) == 1e7
    assert believed(1e7, 0.0) == 1e7


def test_streams_have_to_be_worth_it() -> None:
    assert fewest_streams([(1, 1e7), (2, 1.9e7), (4, 2.0e7), (8, 2.1e7)]) == (2, 1.9e7)
    assert fewest_streams([(1, 1e7)]) == (1, 1e7)


def test_traffic_moves_a_bandwidth_only_when_the_link_was_the_limit() -> None:
    meter = TrafficMeter()
    meter.start(LinkRow(1, 2, 1e-3, 1e8, 4))
    for _ in range(50):
        meter.observe(1, 2, 8 << 20, 1e6, limited=True)
        meter.observe(1, 2, 1000, 1e6, limited=False)
        meter.observe(1, 2, 8 << 20, math.nan, limited=False)
        meter.observe(1, 3, 8 << 20, 1e6, limited=False)
    assert meter.news() == []
    meter.observe(1, 2, 8 << 20, 5e7, limited=False)
    assert meter.news() == [], "one sample is no news"
    for _ in range(50):
        meter.observe(1, 2, 8 << 20, 5e7, limited=False)
    (row,) = meter.news()
    assert row == LinkRow(1, 2, 1e-3, row.bandwidth, 4) and row.bandwidth == pytest.approx(5e7, rel=0.02)
    assert meter.news() == []
    meter.keep_only([1, 3])
    meter.observe(1, 2, 8 << 20, 1e9, limited=False)
    assert meter.news() == []
