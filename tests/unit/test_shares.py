"""Uneven machines: speeds that are not believed beyond bounds, steps by speed, rounds in which all arrive together."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from collcomm.planner.shares import Speeds, bounded, local_steps
from hypothesis import given, settings
from hypothesis import strategies as st

import collcomm
from collcomm.diloco import DiLoCo, UnevenSteps
from tests.support.peers import run_peers

_REPORT = st.one_of(
    st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf, 1e-300, 1e300]),
    st.floats(allow_nan=True, allow_infinity=True),
)


def _spread(steps: dict[int, int], speeds: dict[int, float]) -> float:
    """By how much the last arrives after the first, as a part of the round."""
    arrivals = [steps[member] / speeds[member] for member in steps]
    return (max(arrivals) - min(arrivals)) / max(arrivals)


# -- steps -------------------------------------------------------------------------------------------------------------


def test_peers_at_full_half_and_quarter_speed_arrive_together() -> None:
    true = {1: 40.0, 2: 20.0, 3: 10.0}
    known, draw = Speeds(), random.Random(4)
    steps = {member: 50 for member in true}
    assert _spread(steps, true) == 0.75
    for _ in range(5):
        for member, taken in steps.items():
            known.observe(member, taken, taken / true[member] * draw.uniform(0.97, 1.03))
        steps = local_steps(known.among(true))
        assert _spread(steps, true) < 0.1
    assert steps[1] == 100 and steps[2] == pytest.approx(50, abs=3) and steps[3] == pytest.approx(25, abs=2)


def test_the_average_follows_a_machine_that_slows_down() -> None:
    true = {1: 10.0, 2: 10.0}
    known = Speeds()
    steps = {1: 100, 2: 100}
    for number in range(30):
        if number == 3:
            true[2] = 4.0
        for member in true:
            known.observe(member, steps[member], steps[member] / true[member])
        steps = local_steps(known.among(true))
        assert number < 3 or known.of(2) == pytest.approx(
            4 + 6 * 0.9 ** (number - 2)
        )  # by a tenth of the difference each
    assert _spread(steps, true) < 0.1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1.0, 5.0), min_size=1, max_size=20), st.floats(1e-3, 1e3))
def test_all_arrive_together_where_the_bounds_allow_it(factors: list[float], scale: float) -> None:
    speeds = {member: factor * scale for member, factor in enumerate(factors)}
    steps = local_steps(speeds)
    assert all(20 <= count <= 100 for count in steps.values()) and max(steps.values()) == 100
    assert _spread(steps, speeds) < 0.1


def test_beyond_the_bounds_the_slow_take_the_least_and_nobody_more_than_the_most() -> None:
    assert local_steps({1: 100.0, 2: 1.0}) == {1: 100, 2: 20}
    assert local_steps({1: 8.0, 2: 8.0}, 5, 5) == {1: 5, 2: 5}
    assert local_steps({}) == {}


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.integers(0, 9), _REPORT))
def test_whatever_is_reported_the_steps_keep_to_their_bounds(speeds: dict[int, float]) -> None:
    steps = local_steps(speeds)
    assert steps.keys() == speeds.keys() and all(20 <= count <= 100 for count in steps.values())
    assert local_steps(dict(reversed(list(speeds.items())))) == steps


# -- speeds ------------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(_REPORT, _REPORT)
def test_one_report_changes_little(steps: float, seconds: float) -> None:
    known = Speeds()
    known.observe(1, 10, 1.0)
    counted = known.observe(1, steps, seconds)
    assert counted == (0 < steps < math.inf and 0 < seconds < math.inf)
    assert 9 <= known.of(1) <= 17
    assert counted or known.of(1) == 10


def test_a_claim_of_a_billion_steps_a_second_leaves_the_others_at_their_least() -> None:
    known = Speeds()
    for member in range(4):
        known.observe(member, 1e9 if member == 3 else 50, 1.0)
    speeds = known.among(range(4))
    assert speeds[3] == 16 * speeds[0]
    assert local_steps(speeds) == {0: 20, 1: 20, 2: 20, 3: 100}


def test_newcomers_begin_at_the_median_and_the_dead_are_forgotten() -> None:
    known = Speeds()
    for member, speed in enumerate([1.0, 2.0, 3.0]):
        known.observe(member, speed, 1.0)
    assert known.among([0, 1, 2, 7]) == {0: 1.0, 1: 2.0, 2: 3.0, 7: 2.0}
    known.keep([0, 2])
    assert known.of(0) == 1 and math.isnan(known.of(1))
    assert known.among([0, 1]) == {0: 1.0, 1: 1.0}
    assert bounded({5: math.nan}) == {5: 1.0}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Speeds(1.0), "momentum"),
        (lambda: local_steps({}, 0, 5), "least"),
        (lambda: local_steps({}, 6, 5), "least"),
    ],
)
def test_arguments_that_make_no_sense(wrong: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()


# -- rounds ------------------------------------------------------------------------------------------------------------


def test_a_round_weighted_by_steps() -> None:
    def body(comm: collcomm.Communicator) -> bytes:
        params = {"w": np.zeros(5, np.float32)}
        diloco = DiLoCo(comm, params, lr=1.0, momentum=0.0, weighted=True)
        diloco.sync()
        with pytest.raises(ValueError, match="needs this peer's steps"):
            diloco.round()
        steps = [100, 50, 25][comm.rank]
        params["w"] += np.float32(0.01 * steps)
        diloco.round(steps)
        expected = 0.01 * sum(count * count for count in (100, 50, 25)) / 175
        np.testing.assert_allclose(params["w"], expected, rtol=1e-6)
        return params["w"].tobytes()

    assert len(set(run_peers(3, body))) == 1


def test_all_peers_agree_on_shares_whatever_one_of_them_reports() -> None:
    def body(comm: collcomm.Communicator) -> list[list[int]]:
        pace = UnevenSteps(comm, 20, 100)
        agreed = []
        for _ in range(3):
            steps = pace.agree()
            assert steps == pace.shares[comm.view[comm.rank].id]
            agreed.append([pace.shares[member.id] for member in comm.view.members])
            pace.trained(steps, [1.0, 2.0, math.nan][comm.rank] * steps)
        return agreed

    told = run_peers(3, body)
    assert told[0] == told[1] == told[2] == [[100] * 3, [100, 50, 50], [100, 50, 50]]
