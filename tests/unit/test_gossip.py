"""Gossip in pairs: who meets whom, how fast differences die out, and that all agree in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import collcomm
from collcomm.diloco import Gossip, complete, ring
from collcomm.diloco.pairs import Mixed, Mixing, accelerated, meetings
from tests.support.peers import run_peers


def apart_after(n: int, edges: Sequence[tuple[int, int]], mixing: Mixing, steps: int, seed: int) -> float:
    """Root mean square distance from the mean, of peers that began at distance 1."""
    chance = np.random.default_rng(seed)
    everyone = [Mixed(chance.standard_normal(300), mixing) for _ in range(n)]
    mean = np.mean([peer.x for peer in everyone], axis=0)
    for meeting in meetings(n, edges, steps, 1.0, [seed]):
        one, other = everyone[meeting.one], everyone[meeting.other]
        one.flow_to(meeting.at)
        other.flow_to(meeting.at)
        kept = one.x.copy()
        one.meet(other.x)
        other.meet(kept)
    return float(np.sqrt(np.mean([(peer.x - mean) ** 2 for peer in everyone])))


def test_differences_die_out_exponentially() -> None:
    apart = [apart_after(8, complete(8), Mixing(), steps, 3) for steps in (10, 20, 30, 40)]
    assert all(later < 0.2 * earlier for earlier, later in pairwise(apart))


@pytest.mark.parametrize("seed", range(3))
def test_a_mirror_needs_fewer_meetings_on_a_ring(seed: int) -> None:
    n = 16
    plain = apart_after(n, ring(n), Mixing(), 200, seed)
    mirrored = apart_after(n, ring(n), accelerated(n, ring(n), 1.0), 100, seed)
    assert mirrored < plain
    assert accelerated(8, complete(8), 1.0) == Mixing(), "nothing to gain where everybody meets everybody"


def test_the_mean_is_kept() -> None:
    mixed = [Mixed(np.array([float(value)]), accelerated(4, ring(4), 1.0)) for value in (0, 1, 2, 9)]
    for meeting in meetings(4, ring(4), 30, 1.0, [1]):
        one, other = mixed[meeting.one], mixed[meeting.other]
        one.flow_to(meeting.at)
        other.flow_to(meeting.at)
        kept = one.x.copy()
        one.meet(other.x)
        other.meet(kept)
    for peer in mixed:
        peer.flow_to(60.0)
    assert np.mean([peer.x for peer in mixed]) == pytest.approx(3.0)


def test_meetings_are_the_same_for_all_and_as_many_as_asked_for() -> None:
    drawn = meetings(6, complete(6), 1000, 0.5, [7, 1])
    assert drawn == meetings(6, complete(6), 1000, 0.5, [7, 1]) != meetings(6, complete(6), 1000, 0.5, [8, 1])
    assert [meeting.at for meeting in drawn] == sorted(meeting.at for meeting in drawn)
    count = Counter(place for meeting in drawn for place in (meeting.one, meeting.other))
    assert sorted(count) == list(range(6)) and all(400 < met < 600 for met in count.values())
    assert {(meeting.one, meeting.other) for meeting in drawn} == set(complete(6))


@pytest.mark.parametrize(
    ("n", "edges", "rate", "text"),
    [
        (3, [(0, 3)], 1.0, "an edge leads between"),
        (3, [(1, 1)], 1.0, "an edge leads between"),
        (4, [(0, 1), (2, 3)], 1.0, "from place 0 to place 2"),
        (2, [(0, 1)], 0.0, "rate"),
        (2, [(0, 1)], float("nan"), "rate"),
        (0, [], 1.0, "1 to 1024 members"),
    ],
)
def test_graphs_and_rates_that_make_no_sense(n: int, edges: list[Any], rate: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        meetings(n, edges, 10, rate, [0])


def test_over_a_group_peers_come_closer_between_averages_and_agree_at_the_end() -> None:
    def body(comm: collcomm.Communicator) -> tuple[float, bytes, float]:
        params = {"w": np.zeros(50, np.float32)}
        gossip = Gossip(comm, params, every=1000, rate=1.0)
        gossip.sync()
        params["w"] += comm.rank
        for _ in range(30):
            gossip.step()
        before = float(params["w"][0])
        gossip.finish()
        return before, params["w"].tobytes(), float(params["w"][0])

    found = run_peers(4, body)
    assert {before for before, _, _ in found} != {0.0, 1.0, 2.0, 3.0}
    assert max(before for before, _, _ in found) - min(before for before, _, _ in found) < 0.1
    assert len({data for _, data, _ in found}) == 1
    assert found[0][2] == pytest.approx(1.5, rel=1e-6), "no peer's part is lost"


def test_peers_with_other_settings_are_refused() -> None:
    def body(comm: collcomm.Communicator) -> None:
        gossip = Gossip(comm, {"w": np.zeros(5, np.float32)}, rate=0.5 if comm.rank == 2 else 1.0)
        if comm.rank != 2:
            gossip._course._draw = lambda: iter(())  # type: ignore[attr-defined]  # rank 2 will not come to it
            gossip.sync()
            return
        with pytest.raises(ValueError, match="other settings"):
            gossip.sync()

    run_peers(3, body)
