"""How a coordinator that knows nothing takes a group over: who counts, who is waited for, which epoch comes next."""

from __future__ import annotations

from typing import Any

from collcomm.membership.recovery import UNHEARD, Recovery
from collcomm.types import Member

GRACE = 1.5
OPTIONS = {"min_size": 2, "on_failure": "retry"}


def view(epoch: int, *members: int) -> dict[str, Any]:
    rows = [[member, f"p{member}", "h", member, "", "", ""] for member in members]
    lists: dict[str, Any] = {"members": rows, "broken": [], "ways": []}
    return {"epoch": epoch, "admitted": False, "outcomes": {}, "plan": None, **lists}


def report(member: int, last: dict[str, Any] | None, halt: tuple[int, int, list[int]] = (0, 0, [])) -> dict[str, Any]:
    row = [member, f"p{member}", "h", member, "", ""]
    return {"member": row, "view": last, **OPTIONS, **dict(zip(("next", "round", "heirs"), halt, strict=True))}


def recovery(*reports: dict[str, Any], record: dict[str, Any] | None = None) -> Recovery:
    found = Recovery(record, 0.0)
    for said in reports:
        found.reports[f"p{said['member'][0]}".encode()] = said
    return found


def names(members: list[Member]) -> list[int]:
    return [member.id for member in members]


def test_when_all_have_reported_it_goes_on_at_once_after_every_epoch_heard_of() -> None:
    last = view(7, 1, 2, 3)
    found = recovery(report(1, last), report(2, last, (9, 1, [1, 2, 3])), report(3, last)).conclude(0.0, GRACE)
    assert found is not None
    assert (found.next_epoch, found.lagging, found.strays, found.lost) == (10, (), (), ())
    assert found.members == (b"p1", b"p2", b"p3")


def test_who_has_missed_the_last_view_is_told_it() -> None:
    before, last = view(7, 1, 2, 3), view(8, 1, 2)
    found = recovery(report(1, before), report(2, last), report(3, before), report(4, None)).conclude(0.0, GRACE)
    assert found is not None and found.view == last
    assert (found.members, found.lagging, found.strays, found.waiting) == ((b"p1", b"p2"), (b"p1",), (b"p3",), (b"p4",))


def test_a_majority_goes_on_when_the_grace_time_is_over_and_skips_epochs() -> None:
    last = view(7, 1, 2, 3)
    waiting = recovery(report(1, last), report(3, last))
    assert waiting.conclude(GRACE - 0.1, GRACE) is None
    found = waiting.conclude(GRACE, GRACE)
    assert found is not None and found.next_epoch == 8 + UNHEARD and names(list(found.lost)) == [2]


def test_half_is_no_majority_until_the_others_are_known_to_be_gone() -> None:
    last = view(7, 1, 2)
    waiting = recovery(report(1, last))
    assert waiting.conclude(100.0, GRACE) is None
    assert names(waiting.to_probe(100.0, GRACE)) == [2]
    assert waiting.to_probe(100.1, GRACE) == []
    waiting.refused.add(2)
    assert waiting.conclude(100.2, GRACE) is not None


def test_a_record_knows_the_last_view_though_nobody_else_does() -> None:
    record = {"view": view(9, 1, 4), "next_id": 12, "next_epoch": 10, **OPTIONS}
    stale = recovery(report(1, view(8, 1, 2, 3)), report(2, view(8, 1, 2, 3)), record=record)
    assert stale.conclude(0.0, GRACE) is None
    found = stale.conclude(GRACE, GRACE)
    assert found is not None and found.view["epoch"] == 9 and found.next_epoch == 10
    assert (found.members, found.lagging, found.strays) == ((b"p1",), (b"p1",), (b"p2",))


def test_those_whom_the_lost_coordinator_had_dropped_do_not_count() -> None:
    """The history of docs/protocol.md: 1 and 2 made a decision without 3, and 1 has acted on it and is slow to report."""
    last = view(1, 1, 2, 3)
    waiting = recovery(report(2, last, (2, 1, [1, 2])), report(3, last))
    assert names(waiting.expected()) == [1, 2]
    assert waiting.conclude(100.0, GRACE) is None
    waiting.refused.add(1)
    found = waiting.conclude(100.0, GRACE)
    assert found is not None and (found.members, found.strays) == ((b"p2",), (b"p3",))


def test_the_latest_halt_says_who_counts() -> None:
    last = view(1, 1, 2, 3, 4)
    halts = {1: (2, 1, [1, 2, 3]), 2: (2, 2, [1, 2]), 3: (2, 1, [1, 2, 3]), 4: (0, 0, [])}
    found = recovery(*(report(member, last, halt) for member, halt in halts.items()))
    assert names(found.expected()) == [1, 2]
    resumed = found.conclude(0.0, GRACE)
    assert resumed is not None and resumed.strays == (b"p3", b"p4") and resumed.next_epoch == 3


def test_a_group_is_not_ended_because_nobody_reports_at_once() -> None:
    waiting = recovery(record={"view": view(9, 1, 4), "next_id": 12, "next_epoch": 10, **OPTIONS})
    assert waiting.conclude(2 * GRACE, GRACE) is None
    assert names(waiting.to_probe(2 * GRACE, GRACE)) == [1, 4]
    waiting.refused |= {1, 4}
    found = waiting.conclude(2 * GRACE, GRACE)
    assert found is not None and found.members == () and found.next_epoch == 10


def test_of_a_group_that_has_ended_nobody_is_awaited() -> None:
    found = recovery(record={"view": view(9), "next_id": 12, "next_epoch": 10, **OPTIONS}).conclude(0.0, GRACE)
    assert found is not None and found.next_epoch == 10
