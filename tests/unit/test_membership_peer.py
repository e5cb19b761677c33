"""A peer's machine: what each of the coordinator's messages means in each of its states."""

from __future__ import annotations

from typing import Any

import pytest

from collcomm.membership import PeerMachine
from collcomm.membership.effects import Adopt, Dismissed, Halt, Inquire, Left, Pending, Rejected, Say, Welcomed
from collcomm.membership.messages import decode, encode
from collcomm.membership.peer import State
from collcomm.types import Outcome, Verdict

JOIN = {"t": "join", "group": "run", "name": "b", "host": "h", "port": 2, "host_id": "x", "offers": "", "site": ""}
JOIN |= {"min_size": 2, "on_failure": "retry"}
WELCOME = {"t": "welcome", "member": 2, "incarnation": "5f", "token": b"8 bytes!"}
ROWS = [[1, "a", "h", 1, "", "", ""], [2, "b", "h", 2, "x", "", ""]]


def view(epoch: int, rows: list[list[Any]] = ROWS, **fields: Any) -> dict[str, Any]:
    given = {
        "epoch": epoch,
        "members": rows,
        "admitted": True,
        "outcomes": {},
        "broken": [],
        "plan": None,
        "ways": [],
        "keys": [],
        "booth": None,
    } | fields
    return {"t": "view", **given}


def tell(machine: PeerMachine, *messages: dict[str, Any]) -> list[Any]:
    """The effects of the last of ``messages``."""
    effects: list[Any] = []
    for message in messages:
        effects = machine.receive(0, decode(encode(message)))
    return effects


def machine_in(state: State) -> PeerMachine:
    machine = PeerMachine(JOIN)
    path = {
        State.JOINING: [],
        State.WAITING: [WELCOME],
        State.MEMBER: [WELCOME, view(3)],
        State.HALTED: [WELCOME, view(3), {"t": "halt", "epoch": 3, "round": 1, "next": 4, "heirs": [1, 2]}],
        State.GONE: [WELCOME, view(3), {"t": "left"}],
    }
    tell(machine, *path[state])
    assert machine.state is state
    return machine


def test_from_joining_to_leaving() -> None:
    machine = PeerMachine(JOIN)
    assert tell(machine, WELCOME) == [Welcomed(2, "5f", b"8 bytes!")]
    (adopted,) = tell(machine, view(1))
    assert isinstance(adopted, Adopt)
    assert (adopted.view.epoch, adopted.view.ids, adopted.view.rank_of(2), adopted.admitted) == (1, (1, 2), 1, True)
    assert tell(machine, {"t": "halt", "epoch": 1, "round": 1, "next": 4, "heirs": [1, 2]}) == [Halt(0, 1, 1)]
    assert machine.state is State.HALTED
    assert isinstance(tell(machine, view(2))[0], Adopt)
    assert machine.state is State.MEMBER
    assert tell(machine, {"t": "left"}) == [Left()]
    assert machine.state is State.GONE


def test_outcomes_and_broken_links_come_as_values() -> None:
    outcomes = {0: [4, 6, ["mismatch", "b differs", ["b"]]], 9: [1, 1, None]}
    (adopted,) = tell(machine_in(State.HALTED), view(4, outcomes=outcomes, broken=[[1, 2]], admitted=False))
    assert adopted.outcomes == {0: Outcome(4, 6, Verdict("mismatch", "b differs", ("b",))), 9: Outcome(1, 1)}
    assert adopted.broken == ((1, 2),)
    assert not adopted.admitted


@pytest.mark.parametrize("epoch", [0, 2, 3])
@pytest.mark.parametrize("state", [State.MEMBER, State.HALTED])
def test_a_view_is_adopted_once_and_never_an_older_one(state: State, epoch: int) -> None:
    machine = machine_in(state)
    assert tell(machine, view(epoch)) == []
    assert machine.state is state


@pytest.mark.parametrize("state", [State.WAITING, State.MEMBER, State.HALTED])
def test_a_view_without_us_is_not_ours(state: State) -> None:
    machine = machine_in(state)
    assert tell(machine, view(9, ROWS[:1])) == []
    assert machine.state is state


@pytest.mark.parametrize("epoch", [2, 4])
def test_a_halt_of_another_epoch_is_ignored(epoch: int) -> None:
    machine = machine_in(State.MEMBER)
    assert tell(machine, {"t": "halt", "epoch": epoch, "round": 7, "next": 9, "heirs": [1, 2]}) == []
    assert machine.state is State.MEMBER


def test_a_halt_said_twice_is_answered_twice() -> None:
    assert tell(machine_in(State.HALTED), {"t": "halt", "epoch": 3, "round": 1, "next": 4, "heirs": [1, 2]}) == [
        Halt(0, 3, 1)
    ]


@pytest.mark.parametrize("state", [State.JOINING, State.WAITING])
def test_who_is_no_member_is_not_halted(state: State) -> None:
    assert tell(machine_in(state), {"t": "halt", "epoch": 0, "round": 1, "next": 4, "heirs": [1, 2]}) == []


def test_a_welcome_said_twice_is_one() -> None:
    assert tell(machine_in(State.WAITING), WELCOME) == []
    assert tell(machine_in(State.MEMBER), WELCOME) == []


def test_a_refusal_ends_it() -> None:
    machine = PeerMachine(JOIN)
    assert tell(machine, {"t": "rejected", "text": "another name"}) == [Rejected("another name")]
    assert machine.state is State.GONE
    assert tell(machine_in(State.MEMBER), {"t": "rejected", "text": "too late"}) == []


@pytest.mark.parametrize("epoch", [2, 3, 4])
def test_only_inquiries_of_this_epoch_are_answered(epoch: int) -> None:
    expected = [Inquire(0, 3, 0, 5)] if epoch == 3 else []
    assert tell(machine_in(State.MEMBER), {"t": "inquire", "epoch": epoch, "gid": 0, "seq": 5}) == expected


def test_pending_is_passed_on() -> None:
    assert tell(machine_in(State.MEMBER), {"t": "pending", "count": 3}) == [Pending(3)]


@pytest.mark.parametrize("state", [State.WAITING, State.MEMBER, State.HALTED])
def test_an_eviction_tells_its_cause(state: State) -> None:
    assert tell(machine_in(state), {"t": "evicted", "cause": "silent"}) == [Dismissed("silent")]


@pytest.mark.parametrize(
    "message",
    [
        WELCOME,
        view(9),
        {"t": "halt", "epoch": 3, "round": 1, "next": 4, "heirs": [1, 2]},
        {"t": "evicted", "cause": ""},
        {"t": "who"},
        {"t": "left"},
        {"t": "pending", "count": 1},
    ],
    ids=lambda message: message["t"],
)
def test_after_the_end_nothing_happens(message: dict[str, Any]) -> None:
    assert tell(machine_in(State.GONE), message) == []


def test_who_is_asked_says_all_that_a_coordinator_needs() -> None:
    (said,) = tell(machine_in(State.HALTED), {"t": "who"})
    assert isinstance(said, Say) and said.line == 0
    report = decode(encode(said.message))
    assert report["member"] == [2, "b", "h", 2, "x", "", ""]
    assert (report["view"]["epoch"], report["view"]["members"]) == (3, ROWS)
    assert (report["next"], report["round"], report["heirs"]) == (4, 1, [1, 2])
    assert (report["incarnation"], report["token"], report["min_size"]) == ("5f", b"8 bytes!", 2)


def test_who_waits_reports_no_view_and_who_has_not_been_welcomed_joins_again() -> None:
    (said,) = tell(machine_in(State.WAITING), {"t": "who"})
    assert said.message["view"] is None
    assert tell(machine_in(State.JOINING), {"t": "who"}) == [Say(0, JOIN)]


def test_signs_of_life_go_to_all_lines_and_the_rest_to_the_one_that_leads() -> None:
    machine = PeerMachine(JOIN, lines=3)
    assert machine.tick(0.0) == [Say(line, JOIN) for line in range(3)]
    assert machine.tick(0.2) == []
    machine.receive(1, WELCOME)
    machine.receive(0, {"t": "standby", "leader": "b:1"})
    assert machine.say({"t": "leave"}) == [Say(1, {"t": "leave"})]
    assert machine.tick(0.6) == [Say(line, {"t": "here"}) for line in range(3)]
    machine.receive(2, {"t": "who"})
    assert machine.say({"t": "leave"}) == [Say(2, {"t": "leave"})]
