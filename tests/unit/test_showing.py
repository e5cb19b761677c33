"""What a coordinator shows of a group, from what its machines know; and that all exits have causes."""

from __future__ import annotations

import json
from typing import Any

from collcomm.membership.coordinator import CoordinatorMachine
from collcomm.membership.presets import LAN
from collcomm.membership.showing import encoded, row_of, snapshot_of
from tests.simulation.transcript import Transcript, play, three
from tests.unit.test_messages import EXAMPLES

WALL = 1_700_000_000.0


def shown(transcript: Transcript) -> dict[str, Any]:
    found = snapshot_of(transcript.group, transcript.now, WALL + transcript.now, LAN)
    return json.loads(encoded(found))  # as a watcher gets it


def test_members_in_the_order_of_ranks() -> None:
    found = shown(three())
    assert [(m["id"], m["rank"], m["name"], m["host"]) for m in found["members"]] == [
        (1, 0, "a", "10.0.0.1"),
        (2, 1, "b", "10.0.0.1"),
        (3, 2, "c", "10.0.0.1"),
    ]
    assert (found["group"], found["state"], found["epoch"], found["pending"]) == ("run", "steady", 1, 0)
    assert WALL <= found["since"] <= found["at"]


def test_one_that_is_silent_and_one_that_waits() -> None:
    transcript = three()
    transcript.play("""
        1.0  run
        1.0  d join
        1.9  run silent b
    """)
    found = shown(transcript)
    assert found["pending"] == 1 and row_of(transcript.group) == ["run", "steady", 1, 3, 1]
    assert [member["state"] for member in found["members"]] == [None, "silent", None]
    assert found["members"][1]["heard"] > 0.8 > found["members"][0]["heard"]


def test_who_is_linked_through_whom() -> None:
    transcript = play(
        """
        0.0  a join
        0.0  b join
        0.0  c join
        1.0  c unreachable 1 b 0
        1.0  b echo
    """,
        min_size=3,
    )
    assert shown(transcript)["relayed"] == [], "the other one dials"
    transcript.play("""
        1.1  b unreachable 1 c 1
        1.1  c echo
    """)
    assert shown(transcript)["relayed"] == [{"members": [2, 3], "relay": 1}]


def test_who_waits_for_whom_when_operations_do_not_move() -> None:
    transcript = three()
    transcript.play("""
        1.0  a stalled 1 0:7 all_reduce on b
        1.0  c stalled 1 0:7 all_reduce on b
        1.1  b call 1 0:7 all_reduce
    """)
    a, b, c = shown(transcript)["members"]
    assert a["operation"] == c["operation"]
    assert (a["operation"]["seq"], a["operation"]["kind"], a["operation"]["waiting_on"]) == (7, "all_reduce", [2])
    assert a["state"] == "waiting" and b["operation"]["waiting_on"] == [] and b["state"] is None


def test_every_exit_is_an_event_with_its_cause() -> None:
    transcript = three()
    transcript.play("""
        1.0  a leave
        1.0  b state 1/1 0:0/0
        1.0  c state 1/1 0:0/0
        4.0  run silent c
    """)
    found = shown(transcript)
    exits = [(e["kind"], e["name"], e["member"]) for e in found["events"] if e["kind"] in ("left", "died", "evicted")]
    assert exits == [("left", "a", 1), ("died", "c", 3)]
    assert {"kind": "died", "cause": "silent", "count": 1} in found["totals"]
    assert all(event["text"] for event in found["events"])


def test_a_refusal_that_is_repeated_is_one_event() -> None:
    transcript = three()
    transcript.play("""
        1.0  d join min_size=2
        1.1  d join min_size=2
        1.2  d join min_size=2
    """)
    rejected = [event for event in shown(transcript)["events"] if event["kind"] == "rejected"]
    assert len(rejected) == 1 and rejected[0]["name"] == "d" and "min_size" in rejected[0]["text"]


def test_a_group_that_is_taken_over_is_shown_as_such() -> None:
    machine = CoordinatorMachine(LAN, lambda n: bytes(n), lambda name: None, known=True)
    machine.lead(0.0)
    report = {"t": "report", **EXAMPLES["report"], "heirs": [1, 3]}  # 3 has not reported yet
    machine.receive(0.1, b"key", report)
    found = machine.shown("run-7", 0.2, WALL)
    assert found is not None and found["state"] == "recovering" and found["members"] == []
    assert machine.shown("nowhere", 0.2, WALL) is None
