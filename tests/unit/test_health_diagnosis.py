"""Who is sick: faults planted in a made-up group are named exactly, and a healthy one is left in peace."""

from __future__ import annotations

import random

import pytest

from collcomm.health.breaks import Breaks
from collcomm.health.company import Company
from collcomm.health.finding import Culprit, CulpritKind, Finding, Syndrome
from collcomm.health.flows import Flows
from collcomm.health.gathering import Gathered, class_of
from collcomm.health.limits import Limits
from collcomm.health.observation import Observation, OpenOperation, Sample
from collcomm.health.pace import Pace
from collcomm.health.probes import Probes
from collcomm.health.stragglers import Stragglers
from collcomm.types import LinkRow
from tests.support.sickness import PER_SECOND, RATE, World

SEEDS = range(20)
WARM_SECONDS = 12
LINK, SENDER, RECEIVER, RANK = CulpritKind.LINK, CulpritKind.SENDER, CulpritKind.RECEIVER, CulpritKind.RANK


def warmed(seed: int, kind: str = "ring", **options: object) -> World:
    world = World(seed=seed, kind=kind, **options)  # type: ignore[arg-type]
    for _ in range(WARM_SECONDS):
        world.second()
    assert not world.found, world.found
    return world


def only(world: World) -> tuple[Syndrome, Culprit]:
    assert len(world.found) == 1, world.found
    _, finding = world.found[0]
    assert 0.5 < finding.confidence <= 1.0 and finding.evidence
    return finding.syndrome, finding.culprit


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_that_never_calls(seed: int) -> None:
    world = warmed(seed)
    sick, began, seq = 1 + seed % 8, world.now, world.seq + 1

    def inside(member: int) -> tuple[int, float, float, tuple[int, ...]] | None:
        return None if member == sick else (seq, world.now - began, world.now - began, (sick,))

    while not world.found and world.now - began < 30:
        world.second(inside)
    assert only(world) == (Syndrome.NON_COMMUNICATION_HANG, Culprit(RANK, (sick,)))
    assert world.found[0][1].since == (0, seq)
    assert world.now - began <= 5.0 + 2.0


@pytest.mark.parametrize("seed", SEEDS)
def test_a_link_that_swallows_everything(seed: int) -> None:
    """What the kernels say is reported by the ends, again when the link has been made anew; the group goes on with both."""
    world = warmed(seed)
    sick = (1 + seed % 7, 8)
    for _ in range(2):
        world.diagnosis.accused(world.now, sick[1], sick[0], "unacked")
        world.diagnosis.accused(world.now + 0.1, sick[0], sick[1], "unacked")
        world.change(world.ids)
        world.second()
        world.second()
    world.second()
    assert only(world) == (Syndrome.COMMUNICATION_HANG, Culprit(LINK, sick))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_goes_through_a_relay_stands_still_with_its_link_and_accuses_nobody(seed: int) -> None:
    world = warmed(seed)
    sick, relayed = (1, 3), [(3, 4), (1, 2)]
    world.diagnosis.relayed(relayed)
    for _ in range(2):
        for one, other in (*relayed, sick):
            world.diagnosis.accused(world.now, one, other, "unacked")
        world.change(world.ids)
        world.second()
        world.second()
    world.second()
    assert only(world) == (Syndrome.COMMUNICATION_HANG, Culprit(LINK, sick))


@pytest.mark.parametrize("seed", range(20))
def test_a_link_that_was_given_up_once_and_carries_again_is_only_slow(seed: int) -> None:
    """Queues before a slow link may lose packets until nobody has an answer for a second."""
    world = warmed(seed)
    world.diagnosis.accused(world.now, world.ids[0], world.ids[1], "unacked")
    world.change(world.ids)
    for _ in range(4):
        world.second()
    assert not world.found


def test_two_members_that_wait_for_each_other() -> None:
    world = warmed(1)
    began, seq = world.now, world.seq + 1

    def inside(member: int) -> tuple[int, float, float, tuple[int, ...]]:
        waits = {3: (4,), 4: (3,)}.get(member, (1 + member % 8,))
        return seq, world.now - began, world.now - began, waits

    while not world.found and world.now - began < 30:
        world.second(inside)
    assert only(world) == (Syndrome.COMMUNICATION_HANG, Culprit(LINK, (3, 4)))


def test_a_long_operation_in_which_nobody_says_for_whom_it_waits_has_no_culprit() -> None:
    world = warmed(2)
    began, seq = world.now, world.seq + 1
    while world.now - began < 20:
        world.second(lambda member: (seq, world.now - began, 0.0, ()))
    assert not world.found, world.found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["ring", "direct"])
def test_a_link_at_a_tenth(seed: int, kind: str) -> None:
    world = warmed(seed, kind)
    edges = world.edges()
    sick = edges[seed % len(edges)]
    world.slow[sick] = 10.0
    for _ in range(4):
        world.second()
    assert only(world) == (Syndrome.COMMUNICATION_SLOW, Culprit(LINK, sick))
    assert 5 < world.found[0][1].factor < 20
    del world.slow[sick]
    for _ in range(8):
        world.second()
    assert [one.culprit for one in world.ended] == [Culprit(LINK, sick)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["ring", "direct"])
@pytest.mark.parametrize("end", [0, 1], ids=["egress", "ingress"])
def test_all_that_goes_out_or_comes_in(seed: int, kind: str, end: int) -> None:
    world = warmed(seed, kind)
    sick = 1 + seed % 8
    world.slow = {pair: 10.0 for pair in world.pairs() if pair[end] == sick}
    began = world.now
    while not world.found and world.now - began < 30:
        world.second()
    assert only(world) == (Syndrome.COMMUNICATION_SLOW, Culprit((SENDER, RECEIVER)[end], (sick,)))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_that_is_the_last_again_and_again_where_all_are_somewhat_uneven(seed: int) -> None:
    """The processors are short for all, so that what one lacks more than others is no more than some of their spreads."""
    chance = random.Random(seed)
    limits = Limits()
    company = Company(limits)
    company.view(0.0, 1, range(1, 9))
    stragglers = Stragglers(
        limits, company, Pace(limits, company), Flows(limits, company, Breaks(limits), Probes(limits))
    )
    sick = 1 + seed % 8

    def operations(first: int, count: int, late: float) -> list[Finding]:
        for seq in range(first, first + count):
            arrives = {member: abs(chance.gauss(0.0, 0.03)) for member in range(1, 9)}
            arrives[sick] += late
            end = max(arrives.values()) + 0.15
            told = {member: (end - at, 0.0) for member, at in arrives.items()}
            stragglers.add(0.3 * seq, Gathered(0, seq, "all_reduce", 1 << 20, 0.3 * seq, told), False)
        return stragglers.claims(0.3 * (first + count), False)

    assert operations(0, 100, 0.0) == []
    found = operations(100, 40, 0.11)
    assert [finding.culprit for finding in found] == [Culprit(RANK, (sick,))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("end", [0, 1], ids=["egress", "ingress"])
def test_witnesses_do_when_a_probe_takes_its_time_over_a_slow_link(seed: int, end: int) -> None:
    world = warmed(seed)
    sick = 1 + seed % 8
    (edge,) = [pair for pair in world.edges() if pair[end] == sick]
    world.unprobed = frozenset((edge, edge[::-1]))
    world.slow = {pair: 10.0 for pair in world.pairs() if pair[end] == sick}
    for _ in range(9):
        world.second()
    assert only(world) == (Syndrome.COMMUNICATION_SLOW, Culprit((SENDER, RECEIVER)[end], (sick,)))


@pytest.mark.parametrize("seed", SEEDS)
def test_at_last_those_witnesses_do_that_have_been_heard(seed: int) -> None:
    """What the other end sends could not be probed: its probes wait behind that of the slow link."""
    world = warmed(seed)
    sick = 1 + seed % 8
    ((source, _),) = [pair for pair in world.edges() if pair[1] == sick]
    world.unprobed = frozenset(pair for pair in world.pairs() if source in pair)
    world.slow = {pair: 10.0 for pair in world.pairs() if pair[1] == sick}
    for _ in range(20):
        world.second()
    assert world.found and world.found[0][1].confidence == 0.5
    assert {finding.culprit for _, finding in world.found} == {Culprit(RECEIVER, (sick,))}


def test_witnesses_that_agree_leave_it_to_the_link_itself() -> None:
    world = warmed(1)
    edge = world.edges()[2]
    world.unprobed = frozenset((edge, edge[::-1]))
    world.slow = {edge: 10.0}
    for _ in range(9):
        world.second()
    assert not world.found
    world.unprobed = frozenset()
    for _ in range(3):
        world.second()
    assert only(world) == (Syndrome.COMMUNICATION_SLOW, Culprit(LINK, edge))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_member_sent_slowly_when_it_received_slowly_does_not_hold_that_up_for_ever(seed: int) -> None:
    """Its acknowledgements were late, so its own flows were slow as well; later, one of these has a reason of its own."""
    world = warmed(seed, "direct")
    first, second = 1 + seed % 8, 1 + (seed + 3) % 8
    world.slow = {pair: 10.0 for pair in world.pairs() if first in pair}
    world.unprobed = frozenset(world.pairs())
    probes = [
        LinkRow(*pair, 1e-4, RATE / (10.0 if pair[1] == first else 1.0)) for pair in world.pairs() if first in pair
    ]
    for _ in range(6):
        world.second()
        world.diagnosis.measured(world.now, probes)
    assert only(world)[1] == Culprit(RECEIVER, (first,))
    world.unprobed = frozenset()
    world.kind, world.slow = "ring", {}
    world.stride = (second - first) % 8 if (second - first) % 2 else 1
    for _ in range(8):
        world.second()
    world.slow = {pair: 10.0 for pair in world.pairs() if pair[1] == second}
    for _ in range(20):
        world.second()
    assert Culprit(RECEIVER, (second,)) in [finding.culprit for _, finding in world.found]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_link_that_nobody_has_measured_and_a_new_plan_has_just_begun_to_use(seed: int) -> None:
    world = warmed(seed, surveyed=False)
    world.stride = 3
    for _ in range(3):  # too few to tell from the traffic what is usual
        world.second()
    assert not world.diagnosis.wanted, "what is in use was measured at once"
    sick = world.edges()[seed % 8]
    world.slow[sick] = 10.0
    for _ in range(8):
        world.second()
    assert only(world) == (Syndrome.COMMUNICATION_SLOW, Culprit(LINK, sick))


def test_a_probe_that_was_made_during_a_fault_does_not_tell_what_is_usual() -> None:
    probes = Probes(Limits())
    assert probes.best((1, 2)) is None
    for now, bandwidth in ((0.0, 2e6), (100.0, 1e5)):
        probes.measured(now, [LinkRow(1, 2, 1e-4, bandwidth, 1)], lambda edge: False)
    assert probes.best((1, 2)) == 2e6


def test_what_flows_is_of_the_operation_that_takes_the_time() -> None:
    limits = Limits()
    pace = Pace(limits, Company(limits))
    small = Sample(0, 1, 7, "all_reduce", 1 << 10, 0.01, 0.0)
    for age, work in ((0.9, class_of(0, "all_reduce", 1 << 20)), (0.0, class_of(0, "all_reduce", 1 << 10))):
        large = OpenOperation(0, 1, 8, "all_reduce", 1 << 20, age, 0.0, ())
        observation = Observation(1, 1, 50.0, 1.0, 7, 1, open=(large,), samples=(small,))
        assert pace.told(observation) == work
        assert not pace.is_slow(observation, work), "nothing is known of it"


@pytest.mark.parametrize("seed", SEEDS)
def test_a_member_without_a_processor(seed: int) -> None:
    world = warmed(seed)
    sick, before = 1 + seed % 8, world.seq
    world.starved[sick] = 0.1
    while not world.found and world.seq - before < 100:
        world.second()
    assert only(world) == (Syndrome.NON_COMMUNICATION_SLOW, Culprit(RANK, (sick,)))
    assert world.seq - before <= 20 + PER_SECOND
    world.starved.clear()
    for _ in range(6):
        world.second()
    assert [one.culprit for one in world.ended] == [Culprit(RANK, (sick,))]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_link_that_comes_and_goes(seed: int) -> None:
    world = warmed(seed)
    sick = (1 + seed % 7, 8)
    for _ in range(3):
        world.diagnosis.accused(world.now, sick[1], sick[0], "closed")
        world.change(world.ids)
        for _ in range(3):
            world.second()
    assert only(world) == (Syndrome.COMMUNICATION_HANG, Culprit(LINK, sick))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["ring", "direct"])
def test_a_healthy_group_is_left_in_peace(seed: int, kind: str) -> None:
    world = World(seed=seed, kind=kind, jitter=0.3)
    while world.seq < 1000:
        world.second()
    assert not world.found, world.found


@pytest.mark.parametrize("seed", range(5))
def test_work_that_was_always_uneven_is_no_sickness(seed: int) -> None:
    world = World(seed=seed, late={3: 0.05, 5: 0.2})
    while world.seq < 400:
        world.second()
    assert not world.found, world.found


def test_joins_leaves_and_other_sizes_are_none_either() -> None:
    world = warmed(3)
    for ids in ([*world.ids, 9], [one for one in world.ids if one != 4], world.ids):
        world.change(ids)
        for _ in range(10):
            world.second()
    for nbytes in (64 << 20, 1 << 20):
        world.nbytes = nbytes
        for _ in range(10):
            world.second()
    world.kind = "direct"
    for _ in range(20):
        world.second()
    assert not world.found, world.found


def test_a_broken_link_whose_end_died_is_not_to_blame() -> None:
    world = warmed(4)
    world.diagnosis.accused(world.now, 8, 2, "unacked")
    world.change([one for one in world.ids if one != 2])
    for _ in range(5):
        world.second()
    assert not world.found, world.found


def test_a_network_that_is_slower_for_all_has_no_culprit() -> None:
    world = warmed(5)
    world.slow = dict.fromkeys(world.pairs(), 4.0)
    for _ in range(30):
        world.second()
    assert not world.found, world.found
