"""What becomes of findings in the health of one group at its coordinator."""

from __future__ import annotations

from collcomm.health.attending import CORRUPT_SECONDS, GroupHealth
from collcomm.health.finding import Culprit, CulpritKind, Finding, Syndrome
from collcomm.health.observation import Observation, Sample
from collcomm.types import Member, View

VIEW = View(1, tuple(Member(number, f"peer-{number}", "127.0.0.1", 1000 + number) for number in (1, 2, 3)))


def corruption(at: float, member: int = 2) -> Finding:
    return Finding(Syndrome.CORRUPTION, Culprit(CulpritKind.RANK, (member,)), at, "a flipped bit", 1.0, (0, 7))


def test_corruption_is_one_finding_as_long_as_it_comes_again_and_ends_a_while_after() -> None:
    health = GroupHealth()
    health.view_changed(0.0, VIEW)
    for at in (1.0, 30.0, 80.0):
        health.corrupt(corruption(at))
        health.tick(at + 0.1)
    assert [case.finding.at for case in health.open] == [1.0]
    health.tick(80.0 + CORRUPT_SECONDS - 0.1)
    assert len(health.open) == 1
    health.tick(80.0 + CORRUPT_SECONDS)
    assert health.open == [] and health.cases[0].ended == 80.0 + CORRUPT_SECONDS
    health.corrupt(corruption(200.0))
    assert [case.finding.at for case in health.open] == [200.0]


def lateness(health: GroupHealth, now: float) -> dict[int, float | None]:
    rows = [{"id": member.id, "state": None, "sent": None} for member in VIEW.members]
    return {row["id"]: row.get("late") for row in health.show({"members": rows}, now, now)["members"]}


def test_who_was_in_an_operation_for_the_shortest_time_came_last() -> None:
    health = GroupHealth()
    health.view_changed(0.0, VIEW)
    for member, took in ((1, 0.5), (2, 0.2), (3, 0.4)):
        samples = tuple(Sample(0, 1, seq, "all_reduce", 64, took, 0.0) for seq in range(4))
        assert set(lateness(health, 1.0).values()) == {None}, "not all have told"
        health.observed(Observation(member, 1, 1.0, 1.0, 4, 4, {0: 3}, samples=samples))
    assert lateness(health, 1.5) == {1: 0.0, 2: 0.3, 3: 0.1}


def test_who_is_alone_is_not_late() -> None:
    health = GroupHealth()
    health.view_changed(0.0, View(2, VIEW.members[:1]))
    health.observed(Observation(1, 2, 1.0, 1.0, 1, 1, {0: 0}, samples=(Sample(0, 2, 0, "all_reduce", 64, 0.5, 0.0),)))
    assert lateness(health, 1.5)[1] == 0.0
