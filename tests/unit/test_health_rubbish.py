"""What cannot be, or is of nobody, changes nothing: the diagnosis neither raises nor accuses."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collcomm.health.diagnosis import Diagnosis
from collcomm.health.intake import believable
from collcomm.health.observation import FlowReport, Observation, OpenOperation, Sample
from collcomm.types import LinkRow
from tests.support.ailing import Fault, World, diagnose, phase_of

bad_seconds = st.sampled_from([-1.0, -math.inf, math.inf, math.nan, 1e300])
bad_number = st.sampled_from([-1, -(1 << 70), 1 << 70])
good_number = st.integers(0, 1 << 20)


@st.composite
def rubbish(draw: st.DrawFn) -> Observation:
    """With something in each part that cannot be, or of an epoch or a member that is none."""
    wrong = draw(st.sampled_from(["member", "epoch", "at", "parts"]))
    samples = [Sample(0, 1, draw(good_number), "all_reduce", 8, draw(bad_seconds), 0.0) for _ in range(3)]
    samples.append(Sample(0, 1, draw(bad_number), "all_reduce", draw(bad_number), 0.1, 0.0))
    age, silent = draw(bad_seconds), draw(bad_seconds)
    return Observation(
        member=draw(st.sampled_from([-1, 99, 1 << 70])) if wrong == "member" else draw(st.integers(0, 7)),
        epoch=draw(st.sampled_from([0, -1, 7, 1 << 70])) if wrong == "epoch" else 1,
        at=draw(bad_seconds) if wrong == "at" else draw(st.floats(0.0, 50.0)),
        covers=draw(bad_seconds),
        operations=draw(bad_number),
        entered={0: draw(bad_number), draw(bad_number): 3},
        open=(OpenOperation(0, 1, draw(good_number), "all_reduce", 8, age, silent, (1, 2)),),
        samples=tuple(samples),
        flows=(FlowReport(draw(bad_number), 8, 1.0, 0.0, 9.0, 0), FlowReport(2, 8, draw(bad_seconds), 0.0, 0.0, 0)),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(rubbish(), max_size=40))
def test_rubbish_alone_is_no_finding(observations: list[Observation]) -> None:
    for live in (True, False):
        diagnosis = Diagnosis()
        if live:
            diagnosis.view_changed(0.0, 1, range(8), [])
        for number, observation in enumerate(observations):
            diagnosis.observe(observation)
            assert diagnosis.tick(float(number)) == []


@pytest.mark.parametrize(
    "thing",
    [None, 3, "observation", Observation("a", 1, 1.0, 1.0, 1), Observation(1, 1, "b", 1.0, 1)],  # type: ignore[arg-type]
)
def test_what_is_no_observation_is_passed_over(thing: object) -> None:
    assert believable(thing) is None  # type: ignore[arg-type]
    Diagnosis().observe(thing)  # type: ignore[arg-type]


def test_parts_of_wrong_types_are_left_out_and_the_others_stay() -> None:
    good = Sample(0, 1, 5, "all_reduce", 8, 0.1, 0.05)
    mixed = (good, None, "x", good[:3], Sample(0, 1, 5, 7, 8, 0.1, 0.0), Sample(0, 1, 5, "a", 8, "b", 0.0))
    kept = believable(Observation(1, 1, 1.0, 1.0, 1, samples=mixed, open=(1,), flows=("f",)))  # type: ignore[arg-type]
    assert kept is not None and kept.samples == (good,) and kept.open == () and kept.flows == ()


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_group_stays_so_when_much_comes_twice_late_or_not_at_all(seed: int) -> None:
    chance = random.Random(seed)
    late: list[Observation] = []

    def spoil(observation: Observation) -> list[Observation]:
        what = chance.random()
        if what < 0.1:
            return []
        if what < 0.2:
            late.append(observation)
            return []
        broken = replace(observation, at=math.nan), replace(observation, epoch=0), replace(observation, member=77)
        return [*broken, observation, observation, *(late.pop() for _ in late[:1])]

    outcome = diagnose(World(seed, [phase_of("direct")]), 50.0, spoil=spoil)
    assert outcome.found == []


def test_one_member_that_talks_nonsense_does_not_hide_who_is_sick() -> None:
    def spoil(observation: Observation) -> list[Observation]:
        if observation.member != 6:
            return [observation]
        return [replace(observation, samples=(), flows=(), entered=observation.entered, covers=-1.0, operations=-5)]

    outcome = diagnose(World(2, [phase_of("ring")], Fault(20.0, mute=True, absent=frozenset({3}))), 60.0, spoil=spoil)
    assert [each.culprit.members for each in outcome.found] == [(3,)]


def test_one_member_alone_accuses_nobody_of_a_hang() -> None:
    """It says that it has been in an operation for an hour; the others are elsewhere, as usual."""

    def spoil(observation: Observation) -> list[Observation]:
        if observation.member != 6:
            return [observation]
        ahead = OpenOperation(0, 1, 10**6, "all_reduce", 8 << 20, 3600.0, 3600.0, (1,))
        return [replace(observation, open=(ahead,), entered={0: 10**6})]

    assert diagnose(World(2, [phase_of("ring")]), 40.0, spoil=spoil).found == []


def test_accusations_and_measurements_that_cannot_be() -> None:
    diagnosis = Diagnosis()
    diagnosis.view_changed(0.0, 1, range(4), [])
    for number in range(10):
        now = 1.0 + 3.0 * number
        diagnosis.accused(now, 1, 1, "closed")
        diagnosis.accused(now, 1, 9, "closed")
        diagnosis.accused(now, 9, 1, "unacked")
        diagnosis.accused(now, 1, 2, "a feeling")
        diagnosis.accused(math.nan, 1, 2, "closed")
        rates = (math.nan, -1.0, 0.0, math.inf)
        diagnosis.measured(now, [LinkRow(0, 1, 1e-4, rate) for rate in rates] + [LinkRow(0, 0, 1e-4, 1e8)])
        assert diagnosis.tick(now) == [] and diagnosis.tick(math.nan) == []


def test_a_link_that_peers_say_breaks_again_and_again_comes_and_goes() -> None:
    diagnosis = Diagnosis()
    diagnosis.view_changed(0.0, 1, range(4), [])
    found = []
    for number in range(3):
        for reporter, member in ((1, 2), (2, 1)):  # one break, told by both
            diagnosis.accused(10.0 * number, reporter, member, "closed")
            found += diagnosis.tick(10.0 * number)
            assert bool(found) == (number == 2)
    assert [(each.culprit.kind.value, each.culprit.members) for each in found] == [("link", (1, 2))]
    assert diagnosis.tick(90.0) == [] and diagnosis.take_ended() == found


def test_what_sleeps_here_is_nobody_elses_silence() -> None:
    """The side that diagnoses stops for ten seconds, and hears the members one after the other."""
    world = World(4, [phase_of("ring")])
    world.simulate(60.0)
    diagnosis, found = Diagnosis(), []
    diagnosis.view_changed(0.0, 1, range(8), [])
    for observation in world.observations(55.0):
        if not 30.0 < observation.at < 40.0:
            diagnosis.observe(observation)
            found += diagnosis.tick(observation.at)
    assert found == []
