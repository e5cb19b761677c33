"""Faults planted into a group of eight: the diagnosis names each exactly, in time, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from collcomm.health.finding import CulpritKind
from collcomm.health.limits import Limits
from collcomm.health.probes import Probes
from collcomm.types import LinkRow
from tests.support.ailing import NEVER, Fault, Outcome, World, diagnose, phase_of

SEEDS = range(21)
PATTERNS = ("ring", "direct", "all_to_all")
AT = 18.0
SICK, NEXT = 3, 4


def row(factor: float) -> dict[tuple[int, int], float]:
    return {(SICK, other): factor for other in range(8) if other != SICK}


def column(factor: float) -> dict[tuple[int, int], float]:
    return {(other, SICK): factor for other in range(8) if other != SICK}


def planted(seed: int, fault: Fault, until: float) -> tuple[Outcome, World]:
    world = World(seed, [phase_of(PATTERNS[seed % 3])], fault, tails=0.05)
    return diagnose(world, until), world


def told_within(world: World, outcome: Outcome) -> int:
    """Operations that ended between the fault and the finding."""
    return sum(AT < run.commit <= outcome.found[0].at for run in world.runs)


HANGS = {
    "stopped before launch": (Fault(AT, absent=frozenset({SICK})), "non-communication hang", "rank", (SICK,)),
    "stopped, and mute": (Fault(AT, absent=frozenset({SICK}), mute=True), "non-communication hang", "rank", (SICK,)),
    "blackholed link": (Fault(AT, blackhole=frozenset({(SICK, NEXT)})), "communication hang", "link", (SICK, NEXT)),
    "cut off": (Fault(AT, blackhole=frozenset([*row(1), *column(1)])), "communication hang", "rank", (SICK,)),
}


@pytest.mark.parametrize("name", HANGS)
def test_hangs(name: str) -> None:
    fault, *expected = HANGS[name]
    for seed in SEEDS:
        outcome, world = planted(seed, fault, AT + 12.0)
        assert outcome.said == [tuple(expected)], (seed, outcome.found)
        (finding,) = outcome.found
        assert finding.since == (0, world.runs[-1].seq) and finding.factor == 0.0
        hung = world.runs[-1]
        began = min(hung.arrived.values())
        cause = AT if hung.arrived[SICK] == NEVER else max(hung.arrived.values())
        limit = outcome.diagnosis.hang_after(0, hung.phase.kind, hung.phase.nbytes)
        assert 2.0 <= limit <= 5.0
        assert (
            finding.at <= max(began, cause) + world.healthy_seconds + limit + 1.05
        )  # one interval between observations


SLOW = {
    "link at 10%": (Fault(AT, slow={(SICK, NEXT): 10.0}), "communication slow", "link", (SICK, NEXT)),
    "slow egress": (Fault(AT, slow=row(10.0)), "communication slow", "sender", (SICK,)),
    "slow ingress": (Fault(AT, slow=column(10.0)), "communication slow", "receiver", (SICK,)),
    "starved of CPU": (Fault(AT, starved={SICK: 3.0}), "non-communication slow", "rank", (SICK,)),
    "grinding within operations": (Fault(AT, grinding={SICK: 40.0}), "non-communication slow", "rank", (SICK,)),
}


@pytest.mark.parametrize("name", SLOW)
def test_slowness(name: str) -> None:
    fault, *expected = SLOW[name]
    for seed in SEEDS:
        outcome, world = planted(seed, fault, AT + 16.0)
        assert outcome.said == [tuple(expected)], (seed, outcome.found)
        assert told_within(world, outcome) <= 20, (seed, outcome.found)
        assert outcome.found[0].confidence > 0.6 and outcome.found[0].evidence


def test_a_link_that_comes_and_goes() -> None:
    for seed in SEEDS:
        outcome, _ = planted(seed, Fault(AT, flapping=(SICK, NEXT)), AT + 16.0)
        assert set(outcome.said) == {("communication hang", "link", (SICK, NEXT))}, (seed, outcome.found)


@pytest.mark.parametrize("factor", [4.0, 30.0])
def test_links_that_are_less_or_more_slow(factor: float) -> None:
    for seed in range(6):
        outcome, _ = planted(seed, Fault(AT, slow={(SICK, NEXT): factor}), AT + 20.0)
        assert outcome.said == [("communication slow", "link", (SICK, NEXT))], (seed, outcome.found)
        assert outcome.found[0].factor == pytest.approx(factor, rel=0.5)


@pytest.mark.parametrize("name", ["link at 10%", "slow egress", "slow ingress"])
def test_a_ring_begins_just_when_links_get_slow(name: str) -> None:
    """As when the plan changes; how links fared in the traffic of before tells what to expect of them, and not how they are."""
    fault, *expected = SLOW[name]
    for seed in range(9):
        world = World(seed, [phase_of("direct"), phase_of("ring", at=AT)], fault, tails=0.05)
        outcome = diagnose(world, AT + 20.0)
        assert outcome.said == [tuple(expected)], (seed, outcome.found)


@pytest.mark.parametrize(("slow", "kind"), [(row(40.0), "sender"), (column(40.0), "receiver")])
def test_a_ring_ends_just_when_links_get_slow(slow: dict[tuple[int, int], float], kind: str) -> None:
    """Nothing is known of most flows but what probes have found once; new ones tell whether they are as slow as they seem."""
    for seed in range(9):
        world = World(seed, [phase_of("ring"), phase_of("direct", at=AT)], Fault(AT, slow=slow), tails=0.05)
        outcome = diagnose(world, AT + 25.0)
        assert outcome.said == [("communication slow", kind, (SICK,))], (seed, outcome.found)


@pytest.mark.parametrize("name", SLOW)
def test_a_view_of_the_same_members_begins_meanwhile(name: str) -> None:
    """As when a link breaks under the fault, and is made anew: what was usual before still is."""
    fault, *expected = SLOW[name]
    for seed in range(9):
        pattern = PATTERNS[seed % 3]
        world = World(seed, [phase_of(pattern), phase_of(pattern, at=AT + 2.0, epoch=2)], fault, tails=0.05)
        outcome = diagnose(world, AT + 20.0)
        assert outcome.said == [tuple(expected)], (seed, outcome.found)


def test_two_faults_are_two_findings() -> None:
    for seed in range(6):
        fault = Fault(AT, absent=frozenset({2, 5}))
        assert sorted(planted(seed, fault, AT + 10.0)[0].said) == [
            ("non-communication hang", "rank", (2,)),
            ("non-communication hang", "rank", (5,)),
        ]
        fault = Fault(AT, slow={(0, 1): 10.0, (5, 6): 10.0})
        assert sorted(planted(seed, fault, AT + 20.0)[0].said) == [
            ("communication slow", "link", (0, 1)),
            ("communication slow", "link", (5, 6)),
        ]


def test_a_straggler_among_members_whose_work_is_uneven() -> None:
    for seed in range(6):
        phase = phase_of("ring", work={1: 1.5, 6: 2.0})
        outcome = diagnose(World(seed, [phase], Fault(AT, starved={SICK: 4.0}), tails=0.05), AT + 20.0)
        assert outcome.said == [("non-communication slow", "rank", (SICK,))], (seed, outcome.found)
        assert "usually" in outcome.found[0].evidence


@pytest.mark.parametrize("size", [2, 3, 4])
def test_small_groups(size: int) -> None:
    expected: dict[str, tuple[Fault, tuple[str, str, tuple[int, ...]]]] = {
        "stopped": (Fault(AT, absent=frozenset({1})), ("non-communication hang", "rank", (1,))),
        "blackhole": (Fault(AT, blackhole=frozenset({(0, 1)})), ("communication hang", "link", (0, 1))),
        "starved": (Fault(AT, starved={1: 4.0}), ("non-communication slow", "rank", (1,))),
        "slow": (Fault(AT, slow={(0, 1): 10.0}), ("communication slow", "link", (0, 1))),
    }
    for name, (fault, said) in expected.items():
        world = World(1, [phase_of("ring", ids=tuple(range(size)))], fault)
        outcome = diagnose(world, AT + 20.0)
        assert outcome.said == [said], (name, outcome.found)


@pytest.fixture
def world_of() -> Callable[[Fault], World]:
    return lambda fault: World(3, [phase_of("ring")], fault)


def test_offline_it_finds_members_and_faults_by_itself(world_of: Callable[[Fault], World]) -> None:
    for fault, *expected in [*HANGS.values(), SLOW["slow egress"], SLOW["starved of CPU"]]:
        outcome = diagnose(world_of(fault), AT + 20.0, live=False)
        assert outcome.said == [tuple(expected)]


def test_without_probes_the_best_guess_is_the_link_and_is_not_sure(world_of: Callable[[Fault], World]) -> None:
    outcome = diagnose(world_of(Fault(AT, slow=row(10.0))), AT + 25.0, probes=False)
    (finding,) = outcome.found
    assert outcome.said == [("communication slow", "link", (SICK, NEXT))] and finding.confidence <= 0.5
    assert "sender" in finding.evidence and "receiver" in finding.evidence
    wanted = outcome.diagnosis.wanted
    assert {(SICK, NEXT), (NEXT, SICK)} <= set(wanted) and all({SICK, NEXT} & set(edge) for edge in wanted)


def test_probes_that_come_late_correct_the_guess(world_of: Callable[[Fault], World]) -> None:
    world = world_of(Fault(AT, slow=row(10.0)))
    outcome = diagnose(world, AT + 22.0, probes=False)
    diagnosis, now = outcome.diagnosis, AT + 22.0
    diagnosis.measured(now, [world.probe(edge, now) for edge in diagnosis.wanted])
    (finding,) = diagnosis.tick(now)
    assert (finding.culprit.kind.value, finding.culprit.members) == ("sender", (SICK,)) and finding.confidence > 0.8
    assert [ended.culprit.members for ended in diagnosis.take_ended()] == [(SICK, NEXT)]
    assert diagnosis.wanted == [] and diagnosis.holding == [finding]


@pytest.mark.parametrize("survey", [True, False])
def test_probes_tell_even_when_there_was_no_survey(survey: bool) -> None:
    for seed in range(6):
        for slow, kind in ((row(10.0), "sender"), (column(10.0), "receiver")):
            outcome = diagnose(World(seed, [phase_of("ring")], Fault(AT, slow=slow)), AT + 16.0, survey=survey)
            assert outcome.said == [("communication slow", kind, (SICK,))], (seed, outcome.found)


def test_a_member_late_to_one_operation_of_each_step() -> None:
    """Ten operations follow each other at once; only to the first does anybody come late."""
    for seed in range(4):
        phase = phase_of("ring", nbytes=1 << 18, compute=0.25, burst=10)
        outcome = diagnose(World(seed, [phase], Fault(40.0, starved={SICK: 3.0}), tails=0.01), 70.0)
        assert outcome.said == [("non-communication slow", "rank", (SICK,))], (seed, outcome.found)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(AT, AT + 6.0, absent=frozenset({SICK})),
        Fault(AT, AT + 8.0, slow={(SICK, NEXT): 10.0}),
        Fault(AT, AT + 8.0, starved={SICK: 3.0}),
        Fault(AT, AT + 6.0, blackhole=frozenset({(SICK, NEXT)})),
    ],
    ids=["stopped", "slow link", "starved", "blackhole"],
)
def test_a_finding_ends_once_when_the_fault_is_gone(world_of: Callable[[Fault], World], fault: Fault) -> None:
    outcome = diagnose(world_of(fault), AT + 40.0)
    assert len(outcome.found) == 1
    assert outcome.ended == outcome.found and outcome.diagnosis.holding == []


def test_who_is_gone_is_in_no_finding_any_more(world_of: Callable[[Fault], World]) -> None:
    outcome = diagnose(world_of(Fault(AT, absent=frozenset({SICK}))), AT + 10.0)
    diagnosis = outcome.diagnosis
    assert [finding.culprit.members for finding in diagnosis.holding] == [(SICK,)]
    diagnosis.view_changed(AT + 10.0, 2, [member for member in range(8) if member != SICK], [SICK])
    assert diagnosis.holding == [] and [ended.culprit.members for ended in diagnosis.take_ended()] == [(SICK,)]
    assert diagnosis.tick(AT + 10.1) == [] and diagnosis.take_ended() == []


def test_acknowledgements_of_a_receiver_that_is_slow_may_be_later_than_its_data() -> None:
    """What 7 receives is slow; the way back of one link looked even slower for a moment, and nothing else that 7 sends."""
    probes, ids = Probes(Limits()), range(1, 9)
    rows = [(a, b) for a in ids for b in ids if a != b]
    probes.measured(0.0, [LinkRow(*edge, 1e-4, 1e8) for edge in rows], lambda edge: False)
    slow = {edge: 1e7 for edge in rows if edge[1] == 7} | {(7, 5): 3e6}
    probes.measured(60.0, [LinkRow(*edge, 1e-4, slow.get(edge, 1e8)) for edge in rows], lambda edge: True)
    both = frozenset((CulpritKind.SENDER, CulpritKind.RECEIVER))
    question = probes.about_link((5, 7), both, ids, (), 10.0)
    decision = probes.decide(question, 50.0, 1e8, True)
    assert decision is not None and (decision.kind, decision.members) == (CulpritKind.RECEIVER, (7,))
