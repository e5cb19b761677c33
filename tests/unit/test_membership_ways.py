"""Members that cannot dial each other, as transcripts. How to read them: tests/simulation/transcript.py."""

from __future__ import annotations

import pytest

from collcomm.membership.ways import MOST_RELAYS, Ways
from collcomm.types import Member, Way, WayKind
from tests.simulation.transcript import Transcript, play, three


def four(first: str = "", second: str = "") -> Transcript:
    """a to d, ids 1 to 4; ``first`` and ``second``: the offers of a and b."""
    return play(
        f"""
        0.0  a join offers={first}
        0.0  b join offers={second}
        0.0  c join
        0.0  d join  => d<welcome 4; a,b,c,d<view 1 [a b c d] admitted 0:0; a,b,c,d<pending 0
        """,
        min_size=4,
    )


def test_who_cannot_be_dialled_dials() -> None:
    three().play("""
        1.0  c unreachable 1 a 0    =>
        1.1  a echo                 => a,c<way a-c#1 reversed
        1.2  c call_me 1 a 0        => a<called c 0
    """)


def test_where_neither_can_be_dialled_the_earliest_other_member_relays() -> None:
    four().play("""
        1.0  d unreachable 1 c 0    =>
        1.1  c echo                 => c,d<way c-d#1 reversed
        1.2  c unreachable 1 d 1    =>
        1.3  d echo                 => c,d<way c-d#2 via a
        1.4  c call_me 1 d 0        => d<called c 0
    """)


def test_a_relay_that_one_end_cannot_dial_is_not_chosen_for_it_again() -> None:
    """b is the only other one that can be dialled, so after it nothing is left."""
    four("outward").play("""
        0.1  d unreachable 1 c 0
        0.1  c echo                 => c,d<way c-d#1 reversed
        0.2  c unreachable 1 d 1
        0.2  d echo                 => c,d<way c-d#2 via b
        0.3  c unreachable 1 d 2 b  =>
        0.3  b echo                 => a,b,c,d<halt 1/1
    """)


def test_pairs_are_spread_over_the_relays() -> None:
    four().play("""
        1.0  d unreachable 1 c 0
        1.0  c echo
        1.0  c unreachable 1 d 1
        1.0  d echo                 => c,d<way c-d#2 via a
        1.1  d unreachable 1 b 0
        1.1  b echo                 => b,d<way b-d#1 reversed
        1.1  b unreachable 1 d 1
        1.1  d echo                 => b,d<way b-d#2 via a
    """)


def test_who_says_that_it_cannot_be_dialled_is_not_tried() -> None:
    four("outward", "outward").play("""
        1.0  b unreachable 1 a 0    =>
        1.1  a echo                 => a,b<way a-b#1 via c
        1.2  a unreachable 1 c 0    =>
        1.3  c echo                 => a,c<way a-c#1 via d
    """)


def test_who_is_dead_is_not_looked_for_another_way() -> None:
    three().play("""
        1.0  c unreachable 1 a 0    =>
        1.1  a drops                => a<evicted; b,c<halt 1/1
    """)
    three().play("""
        1.0  a drops                =>
        1.1  c unreachable 1 a 0    => a<evicted; b,c<halt 1/1
    """)


def test_a_report_of_an_older_way_is_answered_with_the_present_one() -> None:
    three().play("""
        1.0  c unreachable 1 a 0
        1.1  a echo                 => a,c<way a-c#1 reversed
        1.2  c unreachable 1 a 0    => c<way a-c#1 reversed
    """)


def test_said_twice_it_counts_once() -> None:
    three().play("""
        1.0  c unreachable 1 a 0
        1.0  c unreachable 1 a 0
        1.1  a echo                 => a,c<way a-c#1 reversed
        1.2  a echo                 =>
    """)


def test_views_carry_the_ways_and_a_relay_that_leaves_is_replaced() -> None:
    four().play("""
        1.0  d unreachable 1 c 0
        1.0  c echo
        1.0  c unreachable 1 d 1
        1.0  d echo                 => c,d<way c-d#2 via a
        2.0  a leave                => a<left; b,c,d<halt 1/1
        2.1  b state 1/1 0:0/0
        2.1  c state 1/1 0:0/0
        2.1  d state 1/1 0:0/0      => b,c,d<view 2 [b c d] 0:0 c-d#3 via b; b,c,d<pending 0
        3.0  b leave                => b<left; c,d<halt 2/2
        3.1  c state 2/2 0:0/0
        3.1  d state 2/2 0:0/0      => c,d<view 3 [c d] 0:0 c-d#4 direct; c,d<pending 0
    """)


def test_a_pair_that_is_out_of_reach_has_a_broken_link_and_begins_again() -> None:
    play(
        """
        0.0  a join
        0.0  b join
        1.0  b unreachable 1 a 0
        1.1  a echo                 => a,b<way a-b#1 reversed
        1.2  a unreachable 1 b 1
        1.3  b echo                 => a,b<halt 1/1
        1.4  a state 1/1 0:0/0
        1.4  b state 1/1 0:0/0      => a,b<view 2 [a b] 0:0 broken a-b a-b#2 direct; a,b<pending 0
    """,
        min_size=2,
    )


def test_who_comes_back_hears_of_ways_that_it_may_have_missed() -> None:
    three().play("""
        1.0  c unreachable 1 a 0
        1.0  a drops                => a<evicted; b,c<halt 1/1
    """)
    three().play("""
        1.0  b drops
        1.0  b unreachable 1 a 0
        1.1  a echo                 => a,b<way a-b#1 reversed
        1.2  b drops                =>
        1.3  b here                 => b<view 1 [a b c] admitted 0:0; b<way a-b#1 reversed; b<pending 0
    """)


def members(count: int, outward: tuple[int, ...] = ()) -> list[Member]:
    return [Member(i, f"m{i}", "h", 1, offers="tcp,outward" if i in outward else "tcp") for i in range(1, count + 1)]


@pytest.mark.parametrize("reporter", ["earlier", "later"])
def test_every_way_is_tried_once_and_then_it_is_over(reporter: str) -> None:
    ways = Ways()
    ways.adopt(0.0, members(9))
    seen: list[Way] = []
    while True:
        present = ways.way(3, 4)
        who = 3 if (present.kind is WayKind.REVERSED or reporter == "earlier") and present.number else 4
        way = ways.failed(0.0, who, 7 - who, present.relay or 7 - who)
        if way is None:
            break
        seen.append(way)
    assert [way.kind for way in seen] == [WayKind.REVERSED] + [WayKind.RELAY] * MOST_RELAYS
    assert [way.number for way in seen] == [1, 2, 3, 4] and ways.way(3, 4).number == 5
    assert [way.relay for way in seen][1:] == [1, 2, 5]


def test_the_next_coordinator_goes_on_from_the_view() -> None:
    ways, later = Ways(), Ways()
    ways.adopt(0.0, members(4))
    ways.failed(0.0, 4, 3, 3)
    ways.failed(0.0, 3, 4, 4)
    later.resume(ways.rows)
    later.adopt(0.0, members(4))
    assert later.way(3, 4) == ways.way(3, 4) == Way((3, 4), 2, WayKind.RELAY, 1)


def test_a_pair_that_was_linked_returns_from_its_relay_and_when_that_is_in_vain_less_and_less_often() -> None:
    ways = Ways()
    ways.adopt(0.0, members(5))
    ways.broke((3, 4))
    waits: list[float] = []
    now = 10.0
    for _ in range(8):
        ways.failed(now, 4, 3, 3)
        relayed = ways.failed(now, 3, 4, 4)
        assert relayed is not None and relayed.kind is WayKind.RELAY
        began = now
        while ways.way(3, 4).kind is WayKind.RELAY:
            now += 10.0
            ways.adopt(now, members(5))
        assert ways.way(3, 4).number == relayed.number + 1, "both ends can tell that this way is newer"
        waits.append(now - began)
    assert waits == [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]


def test_a_pair_that_was_never_linked_stays_with_its_relay() -> None:
    ways = Ways()
    ways.adopt(0.0, members(5))
    ways.failed(0.0, 4, 3, 3)
    relayed = ways.failed(0.0, 3, 4, 4)
    ways.broke((3, 4))  # the relay's lines
    ways.adopt(1e6, members(5))
    assert ways.way(3, 4) == relayed


def test_a_link_that_broke_and_is_relayed_since_is_dialled_again_in_a_later_view() -> None:
    four().play("""
        1.0  d accuse 1 c           =>
        1.1  c echo                 => a,b,c,d<halt 1/1
        1.2  a state 1/1 0:0/0
        1.2  b state 1/1 0:0/0
        1.2  c state 1/1 0:0/0
        1.2  d state 1/1 0:0/0      => a,b,c,d<view 2 [a b c d] 0:0 broken c-d; a,b,c,d<pending 0
        1.3  d unreachable 2 c 0
        1.3  c echo                 => c,d<way c-d#1 reversed
        1.3  c unreachable 2 d 1
        1.3  d echo                 => c,d<way c-d#2 via a
        30   b leave                => b<left; a,c,d<halt 2/2
        30   a state 2/2 0:0/0
        30   c state 2/2 0:0/0
        30   d state 2/2 0:0/0      => a,c,d<view 3 [a c d] 0:0 c-d#2 via a; a,c,d<pending 0
        62   run
        62   c accuse 3 a           =>
        62   a echo                 => a,c,d<halt 3/3
        62   a state 3/3 0:0/0
        62   c state 3/3 0:0/0
        62   d state 3/3 0:0/0      => a,c,d<view 4 [a c d] 0:0 broken a-c c-d#3 direct; a,c,d<pending 0
    """)
