"""Operations that do not move, as transcripts: mismatches, timeouts, and links made anew."""

from __future__ import annotations

from collcomm.membership.disputes import MAX_DISPUTES
from tests.simulation.transcript import play, three


def test_different_calls_fail_at_all_and_the_odd_one_is_named() -> None:
    transcript = three().play("""
        1.0  a stalled 1 0:6 sum on b   => a,b,c<inquire 0:6
        1.0  c call 1 0:6 sum           =>
        2.0  b call 1 0:6 max           => a,b,c<halt 1/1
        2.0  a state 1/1 0:5/6
        2.0  b state 1/1 0:5/6
        2.0  c state 1/1 0:5/7          => a,b,c<view 2 [a b c] 0:5..7 mismatch; a,b,c<pending 0
    """)
    _, view = transcript.messages[0]
    assert view["outcomes"][0][2] == ["mismatch", "b called something else: a, c called sum; b called max", ["b"]]


def test_of_two_different_calls_the_one_of_the_lowest_rank_is_the_measure() -> None:
    transcript = play(
        """
        0.0  a join
        0.0  b join
        1.0  b mismatch 1 0:1 max   => a,b<inquire 0:1
        1.0  a call 1 0:1 sum       => a,b<halt 1/1
        1.0  a state 1/1 0:0/1
        1.0  b state 1/1 0:0/1      => a,b<view 2 [a b] 0:0..1 mismatch; a,b<pending 0
        """,
        min_size=2,
    )
    assert transcript.messages[0][1]["outcomes"][0][2][2] == ["b"]


def test_equal_calls_with_sizes_that_do_not_fit_are_a_mismatch_too() -> None:
    transcript = play(
        """
        0.0  a join
        0.0  b join
        1.0  b mismatch 1 0:1 a2a   => a,b<inquire 0:1
        1.0  a call 1 0:1 a2a       => a,b<halt 1/1
        1.0  a state 1/1 0:0/1
        1.0  b state 1/1 0:0/1      => a,b<view 2 [a b] 0:0..1 mismatch; a,b<pending 0
        """,
        min_size=2,
    )
    assert "b received data" in transcript.messages[0][1]["outcomes"][0][2][1]


def test_a_mismatch_waits_for_those_who_have_not_called_yet() -> None:
    three().play("""
        1.0  a mismatch 1 0:6 sum       => a,b,c<inquire 0:6
        1.0  b call 1 0:6 max           =>
        9.0  run                        =>
        9.0  c call 1 0:6 sum           => a,b,c<halt 1/1
    """)


def test_a_timeout_names_who_has_not_called() -> None:
    transcript = three().play("""
        1.00  run
        1.00  a expired 1 0:6 sum on c  => a,b,c<inquire 0:6
        1.01  b call 1 0:6 sum          =>
        1.25  run                       =>
        1.40  run                       => a,b,c<halt 1/1
        1.40  a state 1/1 0:5/6
        1.40  b state 1/1 0:5/6
        1.40  c state 1/1 0:5/5         => a,b,c<view 2 [a b c] 0:5..6 timeout; a,b,c<pending 0
    """)
    verdict = transcript.messages[0][1]["outcomes"][0][2]
    assert "c had not called it" in verdict[1]
    assert verdict[2] == ["c"]


def test_a_timeout_in_which_all_have_called_names_who_is_waited_for() -> None:
    transcript = three().play("""
        1.0  a expired 1 0:6 sum on c   => a,b,c<inquire 0:6
        1.0  b stalled 1 0:6 sum on c   =>
        1.0  c call 1 0:6 sum           => a,b,c<halt 1/1
        1.0  a state 1/1 0:5/6
        1.0  b state 1/1 0:5/6
        1.0  c state 1/1 0:5/6          => a,b,c<view 2 [a b c] 0:5..6 timeout; a,b,c<pending 0
    """)
    assert "waited for c" in transcript.messages[0][1]["outcomes"][0][2][1]


def test_an_operation_that_all_have_finished_meanwhile_does_not_fail() -> None:
    three().play("""
        1.0  a expired 1 0:6 sum on c   => a,b,c<inquire 0:6
        1.0  b call 1 0:6 sum           =>
        1.0  c call 1 0:6 sum           => a,b,c<halt 1/1
        1.0  a state 1/1 0:6/6
        1.0  b state 1/1 0:6/7
        1.0  c state 1/1 0:6/6          => a,b,c<view 2 [a b c] 0:6; a,b,c<pending 0
    """)


def test_a_dead_member_is_not_waited_for_in_a_dispute() -> None:
    three().play("""
        1.0  a stalled 1 0:6 sum on c   => a,b,c<inquire 0:6
        1.0  c leave                    => c<left; a,b<halt 1/1
        1.0  b call 1 0:6 max           =>
        1.0  a state 1/1 0:5/6
        1.0  b state 1/1 0:5/6          => a,b<view 2 [a b] 0:5; a,b<pending 0
        1.1  a stalled 2 0:6 sum on b   => a,b<inquire 0:6
        1.1  b call 2 0:6 max           => a,b<halt 2/2
    """)


def test_equal_calls_that_stand_still_for_five_seconds_get_new_links_once_per_view() -> None:
    three().play("""
        1.0  a stalled 1 0:6 sum on b   => a,b,c<inquire 0:6
        1.0  b stalled 1 0:6 sum on a   =>
        1.0  c stalled 1 0:6 sum on b   =>
        2.5  a stalled 1 0:6 sum on b   =>
        4.0  a stalled 1 0:6 sum on b   =>
        5.5  a stalled 1 0:6 sum on b   =>
        5.9  run                        =>
        6.2  run                        => a,b,c<halt 1/1
        6.2  a state 1/1 0:5/6
        6.2  b state 1/1 0:5/6
        6.2  c state 1/1 0:5/6          => a,b,c<view 2 [a b c] 0:5 broken a-b broken b-c; a,b,c<pending 0
    """)


def test_a_stall_that_has_resolved_itself_costs_no_link() -> None:
    three().play("""
        1.0  a stalled 1 0:6 sum on b   => a,b,c<inquire 0:6
        1.0  b stalled 1 0:6 sum on a   =>
        1.0  c stalled 1 0:6 sum on b   =>
        9.0  run                        =>
    """)


def test_disputes_are_bounded() -> None:
    transcript = three()
    for seq in range(2 * MAX_DISPUTES):
        transcript.play(f"1.0  a stalled 1 0:{seq} sum on b")
    assert len(transcript.group._disputes._open) == MAX_DISPUTES
