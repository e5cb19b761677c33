"""The coordinator's machine for one group, as transcripts. How to read them: tests/simulation/transcript.py."""

from __future__ import annotations

import pytest

from collcomm.membership.group import State
from tests.simulation.transcript import play, three

# ---- joining ----------------------------------------------------------------------------------------------------


def test_the_first_view_waits_for_min_size_and_ranks_by_order_of_joining() -> None:
    group = three().group
    assert group.state is State.STEADY
    assert [(m.id, m.name) for m in group.view.members] == [(1, "a"), (2, "b"), (3, "c")]


def test_a_join_said_twice_gives_one_member() -> None:
    play(
        """
        0.0  a join  => a<welcome 1
        0.5  a join  => a<welcome 1
        0.6  b join  => b<welcome 2; a,b<view 1 [a b] admitted 0:0; a,b<pending 0
        """,
        min_size=2,
    )


def test_a_later_joiner_waits_until_all_members_are_ready() -> None:
    three().play("""
        1.0  d join              => d<welcome 4; a,b,c<pending 1
        1.1  a ready 1           =>
        1.2  b ready 1           =>
        1.3  c ready 1           => a,b,c<halt 1/1
        1.3  a state 1/1 0:7/7   =>
        1.3  b state 1/1 0:7/7   =>
        1.3  c state 1/1 0:7/7   => a,b,c,d<view 2 [a b c d] admitted 0:7; a,b,c,d<pending 0
    """)


def test_one_who_comes_during_the_admission_of_another_comes_in_with_it() -> None:
    three().play("""
        1.0  d join
        1.1  a ready 1
        1.1  b ready 1
        1.1  c ready 1           => a,b,c<halt 1/1
        1.2  e join              => e<welcome 5; a,b,c<pending 2
        1.3  a state 1/1 0:0/0
        1.3  b state 1/1 0:0/0
        1.3  c state 1/1 0:0/0   => a,b,c,d,e<view 2 [a b c d e] admitted 0:0; a,b,c,d,e<pending 0
    """)


def test_a_joiner_who_dies_while_waiting_is_pending_no_more() -> None:
    three().play("""
        1.0  run
        1.0  d join          => d<welcome 4; a,b,c<pending 1
        1.1  d drops
        2.0  run silent d    =>
        2.3  run silent d    => d<evicted; a,b,c<pending 0
    """)


def test_members_who_wait_for_a_joiner_who_dies_are_let_go() -> None:
    """All have said ready: they wait in step() and must get a view, though nobody is left to admit."""
    three().play("""
        1.0  d join
        1.1  a ready 1
        1.1  b ready 1
        1.2  d leave            => d<left; a,b,c<pending 0
        1.3  c ready 1          => a,b,c<halt 1/1
        1.4  a state 1/1 0:2/2
        1.4  b state 1/1 0:2/2
        1.4  c state 1/1 0:2/2  => a,b,c<view 2 [a b c] admitted 0:2; a,b,c<pending 0
    """)


def test_ready_of_an_old_epoch_counts_for_nothing() -> None:
    three().play("""
        1.0  c leave            => c<left; a,b<halt 1/1
        1.0  a state 1/1 0:0/0
        1.0  b state 1/1 0:0/0  => a,b<view 2 [a b] 0:0; a,b<pending 0
        1.1  d join
        1.2  a ready 1          =>
        1.2  b ready 1          =>
        1.3  a ready 2          =>
        1.3  b ready 2          => a,b<halt 2/2
    """)


def test_a_death_while_all_are_ready_admits_as_well() -> None:
    three().play("""
        1.0  d join
        1.1  a ready 1
        1.1  b ready 1
        1.2  c leave            => c<left; a,b<halt 1/1
        1.3  a state 1/1 0:4/4
        1.3  b state 1/1 0:4/4  => a,b,d<view 2 [a b d] admitted 0:4; a,b,d<pending 0
    """)


def test_a_death_while_one_is_not_ready_does_not_admit() -> None:
    three().play("""
        1.0  d join
        1.1  a ready 1
        1.2  c leave            => c<left; a,b<halt 1/1
        1.3  a state 1/1 0:4/4
        1.3  b state 1/1 0:4/5  => a,b<view 2 [a b] 0:4; a,b<pending 1
    """)


@pytest.mark.parametrize(
    ("joiner", "word"),
    [("d join min_size=2", "min_size=3"), ("d join on_failure=raise", "on_failure='retry'"), ("a' join", "called 'a'")],
)
def test_a_joiner_that_does_not_fit_is_told_why(joiner: str, word: str) -> None:
    name = joiner.split()[0]
    transcript = three().play(f"1.0  {joiner}  => {name}<rejected")
    assert word in transcript.texts[-1]


def test_options_are_free_again_when_everybody_has_gone_and_epochs_rise() -> None:
    transcript = play("""
        0.0  a join             => a<welcome 1; a<view 1 [a] admitted 0:0; a<pending 0
        1.0  a leave            => a<left
        2.0  b join min_size=2 on_failure=raise  => b<welcome 2
        2.1  c join min_size=2 on_failure=raise  => c<welcome 3; b,c<view 3 [b c] admitted 0:0; b,c<pending 0
    """)
    assert transcript.group.options == (2, "raise")


# ---- death ------------------------------------------------------------------------------------------------------


def test_closed_link_and_dropped_control_connection_is_death_at_once() -> None:
    transcript = three().play("""
        1.000  b drops              =>
        1.001  a accuse 1 b         => b<evicted; a,c<halt 1/1
        1.002  a state 1/1 0:4/5    =>
        1.002  c state 1/1 0:5/5    => a,c<view 2 [a c] 0:4; a,c<pending 0
    """)
    assert "a reports: EOF" in transcript.texts[-1]
    assert transcript.group.history[-1][2] == "b"


def test_the_order_of_the_two_signs_does_not_matter() -> None:
    three().play("""
        1.000  a accuse 1 b         =>
        1.001  b drops              => b<evicted; a,c<halt 1/1
    """)


def test_a_dropped_control_connection_alone_has_a_second_to_come_back() -> None:
    three().play("""
        1.0  run             =>
        1.0  b drops         =>
        1.9  run silent b    =>
        2.1  run silent b    => b<evicted; a,c<halt 1/1
    """)


def test_one_that_reconnects_stays() -> None:
    three().play("""
        1.0  run             =>
        1.0  b drops         =>
        1.5  run silent b    =>
        1.5  b here          => b<view 1 [a b c] admitted 0:0; b<pending 0
        3.0  run             =>
    """)


def test_silence_is_death_within_two_seconds_and_a_live_peer_is_never_silent() -> None:
    transcript = three().play("""
        1.0  run             =>
        2.0  run silent b    =>
        2.6  run silent b    => b<evicted; a,c<halt 1/1
    """)
    assert "silent for 1." in transcript.texts[-1]


def test_an_evicted_peer_that_comes_back_is_told_the_cause() -> None:
    transcript = three().play("""
        3.0  run silent b    => b<evicted; a,c<halt 1/1
        3.1  b here          => b<evicted
        3.1  b state 1/1 0:0/0  => b<evicted
    """)
    assert transcript.texts[-1].startswith("evicted from view 1: silent for 1.")


def test_a_stranger_is_asked_who_it_is() -> None:
    three().play("""
        1.0  x here     => x<who
        1.0  x ready 1  => x<who
        1.0  x leave    => x<left
    """)


def test_a_late_tick_blames_nobody() -> None:
    """The coordinator itself was stopped for a minute; the echoes of that time are still on their way."""
    three().play("""
         1.0   run    =>
        61.0   tick   =>
        61.5   run    =>
    """)


def test_a_late_tick_does_not_hide_a_death_for_good() -> None:
    three().play("""
         1.0   run             =>
        61.0   tick            =>
        63.0   run silent b    => b<evicted; a,c<halt 1/1
    """)


def test_a_round_in_which_somebody_dies_begins_anew_and_his_report_is_not_used() -> None:
    three().play("""
        1.0  c leave                => c<left; a,b<halt 1/1
        1.1  b state 1/1 0:2/3      =>
        1.2  b drops
        1.2  a accuse 1 b           => b<evicted; a<halt 1/2
        1.3  a state 1/1 0:3/3      =>
        1.3  a state 1/2 0:3/3      => a<view 2 [a] 0:3; a<pending 0
    """)


def test_everybody_dies_and_those_who_wait_form_the_next_view() -> None:
    play(
        """
        0.0  a join                 => a<welcome 1
        0.0  b join                 => b<welcome 2; a,b<view 1 [a b] admitted 0:0; a,b<pending 0
        1.0  c join                 => c<welcome 3; a,b<pending 1
        1.0  d join                 => d<welcome 4; a,b<pending 2
        1.1  run
        1.1  a drops
        1.1  b drops
        1.2  b accuse 1 a           => b<view 1 [a b] admitted 0:0; b<pending 2; a<evicted; b<halt 1/1
        1.3  b drops
        2.4  run silent b           => b<evicted; c,d<view 3 [c d] admitted 0:0; c,d<pending 0
        """,
        min_size=2,
    )


@pytest.mark.parametrize(
    "line",
    ["a accuse 1 a", "a accuse 0 b", "a accuse 2 b", "d accuse 1 b", "b accuse 1 d"],
    ids=["itself", "old epoch", "epoch to come", "by one who waits", "of one who waits"],
)
def test_an_accusation_that_cannot_be_is_ignored(line: str) -> None:
    three().play(f"""
        1.0  d join     => d<welcome 4; a,b,c<pending 1
        1.1  {line}     =>
        1.2  run        =>
    """)


# ---- links ------------------------------------------------------------------------------------------------------


def test_an_accused_that_still_echoes_has_a_broken_link_which_is_made_anew() -> None:
    three().play("""
        1.000  tick                 =>
        1.001  a accuse 1 b         =>
        1.002  b echo               => a,b,c<halt 1/1
        1.003  a state 1/1 0:1/2
        1.003  b state 1/1 0:1/2
        1.003  c state 1/1 0:2/2    => a,b,c<view 2 [a b c] 0:1 broken a-b; a,b,c<pending 0
    """)


def test_an_echo_of_before_the_accusation_proves_nothing() -> None:
    transcript = three().play("1.0  tick  =>")
    before = transcript.newest_pulse["b"]
    transcript.play("1.1  a accuse 1 b  =>")
    assert transcript.group.echo(1.2, b"b", before) == []
    assert transcript.group.state is State.STEADY


def test_the_third_broken_link_within_ten_seconds_evicts_the_later_of_the_two() -> None:
    transcript = three()
    for number in (1, 2):
        transcript.play(f"""
            {number}.0  a accuse {number} b    =>
            {number}.1  b echo                 => a,b,c<halt {number}/{number}
            {number}.2  a state {number}/{number} 0:0/1
            {number}.2  b state {number}/{number} 0:0/1
            {number}.2  c state {number}/{number} 0:0/1
        """)
    transcript.play("""
        3.0  a accuse 3 b   =>
        3.1  b echo         => b<evicted; a,c<halt 3/3
    """)
    assert "its link to a keeps breaking" in transcript.texts[-1]


def test_of_a_broken_pair_goes_the_one_in_more_broken_links() -> None:
    """a has trouble with b and with c: it is a's network, although a has the lowest id."""
    transcript = three()
    for number in (1, 2):
        transcript.play(f"""
            {number}.0  b accuse {number} a    =>
            {number}.0  c accuse {number} a    =>
            {number}.1  a echo                 => a,b,c<halt {number}/{number}
            {number}.2  a state {number}/{number} 0:0/1
            {number}.2  b state {number}/{number} 0:0/1
            {number}.2  c state {number}/{number} 0:0/1
        """)
    transcript.play("""
        3.0  b accuse 3 a   =>
        3.1  a echo         => a<evicted; b,c<halt 3/3
    """)


def test_link_trouble_is_forgotten_after_thirty_seconds() -> None:
    transcript = three()
    for number in (1, 2, 3):
        at = 16 * number
        transcript.play(f"""
            {at}.0  run
            {at}.0  a accuse {number} b    =>
            {at}.1  b echo                 => a,b,c<halt {number}/{number}
            {at}.2  a state {number}/{number} 0:0/1
            {at}.2  b state {number}/{number} 0:0/1
            {at}.2  c state {number}/{number} 0:0/1
        """)
    assert transcript.group.view.ids == (1, 2, 3)


# ---- leaving ----------------------------------------------------------------------------------------------------


def test_leaving_is_a_view_change_like_any_other() -> None:
    transcript = three().play("""
        1.0  b leave                => b<left; a,c<halt 1/1
        1.1  a state 1/1 0:4/5
        1.1  c state 1/1 0:4/4      => a,c<view 2 [a c] 0:4; a,c<pending 0
        1.2  b leave                => b<left
    """)
    assert transcript.group.history[-1] == (1.0, 1, "b", "left")


def test_the_last_one_to_leave_closes_the_group() -> None:
    group = play("""
        0.0  a join     => a<welcome 1; a<view 1 [a] admitted 0:0; a<pending 0
        1.0  a leave    => a<left
    """).group
    assert group.empty
    assert group.state is State.FORMING


# ---- outcomes ---------------------------------------------------------------------------------------------------


def test_what_somebody_has_committed_is_committed_by_all() -> None:
    """b committed 5 (it knew that all were complete) and died; a and c report 5 complete."""
    three().play("""
        1.0  b drops
        1.0  a accuse 1 b           => b<evicted; a,c<halt 1/1
        1.0  a state 1/1 0:5/5
        1.0  c state 1/1 0:5/6      => a,c<view 2 [a c] 0:5; a,c<pending 0
    """)


def test_with_on_failure_raise_what_was_begun_fails() -> None:
    transcript = three(on_failure="raise").play("""
        1.0  b drops
        1.0  a accuse 1 b           => b<evicted; a,c<halt 1/1
        1.0  a state 1/1 0:5/6
        1.0  c state 1/1 0:5/7      => a,c<view 2 [a c] 0:5..7 lost; a,c<pending 0
    """)
    _, message = transcript.messages[0]
    assert "b died: a reports: EOF" in message["outcomes"][0][2][1]


def test_with_on_failure_raise_nothing_fails_when_nothing_was_begun() -> None:
    three(on_failure="raise").play("""
        1.0  b leave                => b<left; a,c<halt 1/1
        1.0  a state 1/1 0:5/5
        1.0  c state 1/1 0:5/5      => a,c<view 2 [a c] 0:5; a,c<pending 0
    """)


def test_sub_groups_are_decided_by_their_own_members() -> None:
    three().play("""
        1.0  b leave                                => b<left; a,c<halt 1/1
        1.0  a state 1/1 0:5/6 9:2/3[a,b]
        1.0  c state 1/1 0:6/6 8:1/1[b,c]           => a,c<view 2 [a c] 0:5 8:1 9:2; a,c<pending 0
    """)


def test_a_sub_group_that_a_member_has_not_made_yet_has_committed_nothing() -> None:
    three().play("""
        1.0  b leave                                => b<left; a,c<halt 1/1
        1.0  a state 1/1 0:5/5 9:1/1[a,c]
        1.0  c state 1/1 0:5/5                      => a,c<view 2 [a c] 0:5 9:0; a,c<pending 0
    """)


def test_states_of_another_round_or_epoch_count_for_nothing() -> None:
    three().play("""
        0.5  a state 1/1 0:0/0  =>
        1.0  b leave            => b<left; a,c<halt 1/1
        1.0  a state 1/2 0:5/5  =>
        1.0  a state 0/1 0:5/5  =>
        1.0  c state 1/1 0:3/3  =>
        1.0  a state 1/1 0:3/4  => a,c<view 2 [a c] 0:3; a,c<pending 0
    """)


def test_a_closed_control_connection_and_a_data_port_that_is_gone_are_death_at_once() -> None:
    """Nobody has a link to it yet, who could tell."""
    transcript = three().play("1.0  b drops  =>")
    group = transcript.group
    group.probed(1.01, 2, False)
    assert group.state is State.STEADY
    group.probed(1.01, 3, True)  # whose line is there is not dead
    assert group.state is State.STEADY
    group.probed(1.02, 2, True)
    assert group.state is State.CHANGING
    assert group.history[-1][3].startswith("died: its control connection closed")
