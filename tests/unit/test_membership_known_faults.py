"""Known faults of the coordinator's machine: each test says what ought to be, and fails until it is so."""

from __future__ import annotations

from collcomm.membership.effects import Send
from collcomm.membership.group import State
from collcomm.membership.messages import encode
from tests.simulation.transcript import Transcript, three

MANY = 2100  # members of the longest names and hosts allowed: more than a message holds


def test_a_halt_that_was_lost_with_the_connection_is_said_again() -> None:
    three().play("""
        1.0  run
        1.0  b drops
        1.1  c leave            => c<left; a,b<halt 1/1
        1.3  b here             => b<view 1 [a b c] admitted 0:0; b<halt 1/1
    """)


def test_a_view_that_was_lost_with_the_connection_is_said_again() -> None:
    three().play("""
        1.0  run
        1.0  c leave            => c<left; a,b<halt 1/1
        1.0  b state 1/1 0:1/1
        1.0  b drops
        1.1  a state 1/1 0:1/1  => a,b<view 2 [a b] 0:1; a,b<pending 0
        1.3  b here             => b<view 2 [a b] 0:1; b<pending 0
    """)


def test_a_control_connection_that_never_comes_back_is_death_though_the_pulse_answers() -> None:
    """The agent's thread has died of an exception; its pulse thread, which is C code, still echoes."""
    transcript = three().play("""
         1.0  run
         1.0  b drops
         5.0  run
    """)
    assert transcript.group.view.ids == (1, 2, 3) and transcript.group.state is State.CHANGING


def test_a_member_that_never_answers_a_halt_is_dropped_in_the_end() -> None:
    transcript = three().play("""
          1.0  run
          1.0  c leave             => c<left; a,b<halt 1/1
          1.0  a state 1/1 0:1/1
         12.0  run              => b<evicted; a<halt 1/2
         12.0  a state 1/2 0:1/1  => a<view 2 [a] 0:1; a<pending 0
    """)
    assert transcript.group.state is State.STEADY


def test_reports_that_contradict_each_other_do_not_end_the_coordinator() -> None:
    three().play("""
        1.0  c leave                    => c<left; a,b<halt 1/1
        1.0  a state 1/1 0:9/9
    """).group.receive(1.0, b"b", {"t": "state", "epoch": 1, "round": 1, "groups": {0: [2, 2, [1, 2]]}})


def test_a_view_of_as_many_as_may_join_can_be_sent() -> None:
    group = Transcript(min_size=MANY).group
    join = {
        "t": "join",
        "group": "run",
        "host": "h" * 256,
        "port": 1,
        "host_id": "i" * 128,
        "offers": "o" * 64,
        "site": "s" * 64,
    }
    effects = []
    for number in range(MANY):
        name = f"{number:04}".ljust(128, "x")
        effects = group.receive(0.0, name.encode(), {**join, "name": name, "min_size": MANY, "on_failure": "retry"})
    for effect in effects[:3]:
        if isinstance(effect, Send):
            encode(effect.message)


def test_a_newcomer_that_has_not_made_its_world_yet_undoes_nothing() -> None:
    """It is told to halt between its first view and the making of its communicator, and reports nothing."""
    three().play("""
        1.0  c leave            => c<left; a,b<halt 1/1
        1.0  b state 1/1
        1.0  a state 1/1 0:1/1  => a,b<view 2 [a b] 0:0; a,b<pending 0
    """)


def test_who_has_answered_a_halt_is_not_dropped_with_who_has_not() -> None:
    """Of b and c, b stays silent; its removal begins a round in which c has not answered yet, and may."""
    transcript = three().play("""
         1.0  run
         1.0  a leave            => a<left; b,c<halt 1/1
         1.0  c state 1/1 0:1/1
        12.0  run
    """)
    assert [who for _, _, who, cause in transcript.group.history if "did not answer" in cause] == ["b"]
