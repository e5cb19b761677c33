"""Round-trip estimation, a peer's health, disputes, and the arithmetic of outcomes, each by itself."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collcomm.membership.disputes import Dispute
from collcomm.membership.presets import LAN, PRESETS, WAN, Limits
from collcomm.membership.round import Round, decide
from collcomm.membership.rtt import RoundTrip
from collcomm.membership.suspicion import Health
from collcomm.types import Call, GroupReport, Verdict

# ---- round trips ------------------------------------------------------------------------------------------------

samples = st.lists(st.floats(0.0, 60.0), max_size=40)


@given(samples, st.sampled_from(sorted(PRESETS)))
def test_the_limit_of_silence_stays_within_its_preset(seconds: list[float], preset: str) -> None:
    limits, trip = PRESETS[preset], RoundTrip()
    for value in seconds:
        trip.sample(value)
        assert trip.smoothed >= 0.0 and trip.deviation >= 0.0
    assert limits.silence_floor <= trip.silence_limit(limits) <= limits.silence_ceiling


def test_a_quick_path_gets_the_floor_and_a_slow_one_more() -> None:
    quick, slow = RoundTrip(), RoundTrip()
    for _ in range(50):
        quick.sample(0.0005)
        slow.sample(0.3)
    assert quick.silence_limit(LAN) == LAN.silence_floor
    assert LAN.silence_floor < slow.silence_limit(LAN) < LAN.silence_ceiling


@given(st.floats(1e-6, 10.0))
def test_a_steady_path_is_learnt(seconds: float) -> None:
    trip = RoundTrip()
    for _ in range(200):
        trip.sample(seconds)
    assert trip.smoothed == pytest.approx(seconds)
    assert trip.deviation == pytest.approx(0.0, abs=seconds / 100)


def test_an_outlier_widens_the_limit_for_a_while_only() -> None:
    trip = RoundTrip()
    for _ in range(50):
        trip.sample(0.001)
    trip.sample(0.5)
    assert trip.silence_limit(LAN) > LAN.silence_floor
    for _ in range(50):
        trip.sample(0.001)
    assert trip.silence_limit(LAN) == LAN.silence_floor


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_make_sense(name: str) -> None:
    limits = PRESETS[name]
    assert all(getattr(limits, field.name) > 0 for field in fields(Limits))
    assert limits.pulse * 4 <= limits.silence_floor <= limits.silence_ceiling
    assert limits.answer < limits.silence_floor and limits.answer < limits.unstick


def test_a_stopped_peer_on_a_lan_is_out_within_two_seconds() -> None:
    assert LAN.silence_floor + LAN.pulse < 2.0
    assert WAN.silence_floor > LAN.silence_floor


# ---- health -----------------------------------------------------------------------------------------------------


def test_an_echo_of_a_pulse_never_sent_proves_nothing() -> None:
    health = Health(0.0)
    assert not health.echoed(7, 0.5)
    assert health.heard_at == 0.0


def test_an_echo_counts_once() -> None:
    health = Health(0.0)
    health.pinged(1, 0.0)
    health.asked = 1
    assert health.echoed(1, 0.1)
    assert not health.echoed(1, 5.0)
    assert health.heard_at == 0.1


def test_unanswered_pulses_are_forgotten_in_the_end() -> None:
    health = Health(0.0)
    for number in range(1000):
        health.pinged(number, number * 0.2)
    assert len(health._sent) <= 64


def test_dropped_and_accused_is_dead_whichever_comes_first() -> None:
    health = Health(0.0)
    assert health.cause_of_death(0.1, LAN) is None
    health.disconnected_at = 0.1
    assert health.cause_of_death(0.2, LAN) is None
    health.accusers[2] = "b reports: EOF"
    cause = health.cause_of_death(0.2, LAN)
    assert cause is not None and "b reports: EOF" in cause


def test_an_excuse_moves_all_deadlines() -> None:
    health = Health(0.0)
    health.disconnected_at = 0.0
    health.excuse(10.0)
    assert health.cause_of_death(10.5, LAN) is None
    assert health.cause_of_death(11.5, LAN) is not None


# ---- disputes ---------------------------------------------------------------------------------------------------

NAMES = {1: "a", 2: "b", 3: "c", 4: "d"}


def disputed(calls: dict[int, str], members: tuple[int, ...] = (1, 2, 3, 4)) -> Dispute:
    dispute = Dispute(0, 9, members, opened=0.0)
    dispute.calls.update({member: Call(sum(text.encode()), text) for member, text in calls.items()})
    return dispute


@pytest.mark.parametrize(
    ("calls", "culprits"),
    [
        ({1: "sum", 2: "sum", 3: "sum", 4: "max"}, ("d",)),
        ({1: "max", 2: "sum", 3: "sum", 4: "sum"}, ("a",)),
        ({1: "max", 2: "sum", 3: "max", 4: "sum"}, ("b", "d")),  # a tie: whoever differs from the lowest rank
        ({1: "sum", 2: "max", 3: "min", 4: "prod"}, ("b", "c", "d")),
    ],
)
def test_the_odd_ones_out(calls: dict[int, str], culprits: tuple[str, ...]) -> None:
    verdict = disputed(calls).verdict(1.0, NAMES, 0.3)
    assert verdict is not None
    assert verdict.kind == "mismatch"
    assert sorted(verdict.culprits) == list(culprits)
    assert all(text in verdict.text for text in calls.values())


def test_nothing_is_decided_before_all_the_living_have_answered() -> None:
    dispute = disputed({1: "sum", 2: "max", 3: "sum"})
    assert dispute.verdict(99.0, NAMES, 0.3) is None
    alive = {member: name for member, name in NAMES.items() if member != 4}
    assert dispute.verdict(99.0, alive, 0.3) is not None


def test_equal_calls_are_no_dispute() -> None:
    assert disputed(dict.fromkeys(NAMES, "sum")).verdict(99.0, NAMES, 0.3) is None


def test_a_timeout_waits_a_moment_for_answers() -> None:
    dispute = disputed({1: "sum", 2: "sum", 3: "sum"})
    dispute.expired = 1.0
    assert dispute.verdict(1.2, NAMES, 0.3) is None
    verdict = dispute.verdict(1.4, NAMES, 0.3)
    assert verdict is not None
    assert (verdict.kind, verdict.culprits) == ("timeout", ("d",))


def test_a_timeout_with_all_there_names_whom_most_wait_for() -> None:
    dispute = disputed(dict.fromkeys(NAMES, "sum"))
    dispute.expired = 1.0
    dispute.waiting_on.update({1: (3,), 2: (3, 4), 4: (3,)})
    assert dispute.verdict(1.0, NAMES, 0.3) == Verdict("timeout", "not finished in time; waited for c, d", ("c",))


# ---- outcomes ---------------------------------------------------------------------------------------------------


@st.composite
def honest_rounds(draw: st.DrawFn) -> tuple[Round, set[int]]:
    """Reports as correct peers give them: of one communicator, complete is at most one apart."""
    members = tuple(range(1, draw(st.integers(1, 6)) + 1))
    survivors = set(draw(st.lists(st.sampled_from(members), min_size=1, unique=True)))
    round = Round(1)
    gids = draw(st.lists(st.integers(0, 5), min_size=1, unique=True))
    committed = {gid: draw(st.integers(0, 100)) for gid in gids}
    for member in survivors:
        groups = {}
        for gid in gids:
            complete = committed[gid] + draw(st.integers(0, 1))
            groups[gid] = GroupReport(complete, complete + draw(st.integers(0, 3)), members)
        round.states[member] = groups
    return round, survivors


@given(honest_rounds())
def test_decided_is_what_all_survivors_have_completed(made: tuple[Round, set[int]]) -> None:
    round, survivors = made
    outcomes = decide(round, survivors, raise_on_loss=False)
    for gid, outcome in outcomes.items():
        complete = [round.states[member][gid].complete for member in survivors]
        assert outcome.decided == min(complete)
        assert outcome.consumed == outcome.decided
        assert outcome.verdict is None
    assert set(outcomes) == {gid for member in survivors for gid in round.states[member]}


@given(honest_rounds(), st.integers(0, 120))
def test_what_a_verdict_is_about_fails_unless_all_have_completed_it(made: tuple[Round, set[int]], seq: int) -> None:
    round, survivors = made
    gid = min(next(iter(round.states.values())))
    round.verdicts.append((gid, seq, Verdict("timeout", "late")))
    outcome = decide(round, survivors, raise_on_loss=False)[gid]
    entered = max(round.states[member][gid].entered for member in survivors)
    if seq > outcome.decided:
        assert outcome.consumed == max(seq, entered)
        assert outcome.verdict == Verdict("timeout", "late")
    else:
        assert (outcome.consumed, outcome.verdict) == (outcome.decided, None)


@given(honest_rounds())
def test_with_raise_all_that_was_begun_fails(made: tuple[Round, set[int]]) -> None:
    round, survivors = made
    round.lost.append("z died")
    for groups in round.states.values():  # z, number 99, was in all of them
        groups.update({gid: GroupReport(r.complete, r.entered, (*r.members, 99)) for gid, r in groups.items()})
    for gid, outcome in decide(round, survivors, raise_on_loss=True).items():
        reports = [round.states[member][gid] for member in survivors]
        concerned = not set(reports[0].members) <= survivors
        assert outcome.consumed == (max(report.entered for report in reports) if concerned else outcome.decided)
        assert (outcome.verdict is None) == (outcome.consumed == outcome.decided)


def test_a_verdict_on_one_communicator_is_none_on_another() -> None:
    round = Round(1, {1: {0: GroupReport(4, 5, (1,)), 7: GroupReport(2, 3, (1,))}})
    round.verdicts.append((7, 3, Verdict("mismatch", "odd")))
    outcomes = decide(round, {1}, raise_on_loss=False)
    assert (outcomes[0].consumed, outcomes[7].consumed) == (4, 3)


@pytest.mark.parametrize(("entered", "differ", "decided"), [(5, True, 4), (6, True, 5), (5, False, 5)])
def test_what_all_called_by_another_name_is_not_done_though_all_are_complete(
    entered: int, differ: bool, decided: int
) -> None:
    """Unless somebody is in a later operation: then that is what it spoke of, and this one may have been returned."""
    round = Round(1, {1: {0: GroupReport(5, 5, (1, 2))}, 2: {0: GroupReport(5, entered, (1, 2))}})
    round.verdicts.append((0, 5, Verdict("mismatch", "odd", differ=differ)))
    outcome = decide(round, {1, 2}, raise_on_loss=False)[0]
    assert (outcome.decided, outcome.verdict is not None) == (decided, decided == 4)


def test_a_loss_concerns_only_communicators_of_the_lost() -> None:
    """Member 3 is lost; communicator 7 has members 1 and 2 only, and could just go on."""
    reports = {0: GroupReport(4, 5, (1, 2, 3)), 7: GroupReport(2, 3, (1, 2))}
    round = Round(1, {1: reports, 2: reports}, lost=["c died"])
    outcomes = decide(round, {1, 2}, raise_on_loss=True)
    assert outcomes[0].consumed == 5
    assert outcomes[7].consumed == 2
