"""Who probes whom, and what is made of rows that are missing, absurd, or lies."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from collcomm.planner.survey import (
    PAIRS_PER_MEMBER,
    REFRESH_SECONDS,
    dialled_by,
    pair,
    plausible,
    survey,
    to_refresh,
    tournament,
)
from hypothesis import given
from hypothesis import strategies as st

from collcomm.types import LinkRow


@given(st.integers(0, 40))
def test_in_a_tournament_each_meets_each_once_and_nobody_twice_in_a_round(n: int) -> None:
    met = Counter()
    for one in tournament(n):
        players = [player for game in one for player in game]
        assert len(players) == len(set(players)) and len(one) == n // 2
        met.update(pair(a, b) for a, b in one)
    assert met == Counter({(a, b): 1 for b in range(n) for a in range(b)})


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    ids = draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True))
    hosts = draw(st.lists(st.integers(0, 8), min_size=len(ids), max_size=len(ids)))
    return sorted(ids), hosts


@given(groups(), st.integers(0, 5))
def test_a_survey_is_made_of_rounds_between_hosts(group: tuple[list[int], list[int]], seed: int) -> None:
    ids, hosts = group
    host_of = dict(zip(ids, hosts, strict=True))
    rounds = survey(ids, hosts, seed=seed)
    assert rounds == survey(ids, hosts, seed=seed)
    every = [met for one in rounds for met in one]
    assert len(every) == len(set(every))
    assert all(low < high and host_of[low] != host_of[high] for low, high in every)
    for one in rounds:
        busy = [member for met in one for member in met]
        assert one and len(busy) == len(set(busy))
    loads = Counter(member for met in every for member in met)
    assert not loads or max(loads.values()) <= PAIRS_PER_MEMBER
    if len(ids) <= 16:
        assert set(every) == {(a, b) for b in ids for a in ids if a < b and host_of[a] != host_of[b]}
    assert sorted(every) == sorted(
        (low, high) for high in ids for low in dialled_by(high, rounds, lambda other, me=high: other < me)
    )
    assert not survey(ids, hosts, known=set(every), seed=seed) or len(ids) > 16


def test_a_newcomer_of_a_small_group_probes_everybody_and_nobody_else_probes() -> None:
    ids, hosts = [*range(15), 40], list(range(16))
    known = {(a, b) for b in range(15) for a in range(b)}
    rounds = survey(ids, hosts, known=known)
    assert sorted(dialled_by(40, rounds, lambda other: other < 40)) == list(range(15)) and sum(map(len, rounds)) == 15


def test_a_newcomer_of_a_large_group_probes_as_many_as_it_has_time_for() -> None:
    ids, hosts = list(range(200)), list(range(200))
    before = survey(ids[:-1], hosts[:-1])
    known = {met for one in before for met in one}
    loads = Counter(member for met in known for member in met)
    assert min(loads.values()) >= PAIRS_PER_MEMBER - 1
    rounds = survey(ids, hosts, known=known)
    assert len(dialled_by(199, rounds, lambda other: other < 199)) == PAIRS_PER_MEMBER
    assert sum(map(len, rounds)) <= PAIRS_PER_MEMBER + sum(load < PAIRS_PER_MEMBER for load in loads.values())


def test_a_sample_has_each_pair_of_hosts() -> None:
    ids = list(range(64))
    hosts = [rank // 8 for rank in ids]
    met = {pair(hosts[a], hosts[b]) for one in survey(ids, hosts) for a, b in one}
    assert met == {(a, b) for b in range(8) for a in range(b)}
    alone = list(range(300))  # far more pairs of hosts than time
    times = Counter(rank for one in survey(alone, alone) for met in one for rank in met)
    assert set(times) == set(alone) and max(times.values()) == PAIRS_PER_MEMBER


def test_the_oldest_measurement_is_made_again_once_it_is_old() -> None:
    old = REFRESH_SECONDS + 1
    assert to_refresh(3, {(1, 3): old, (2, 3): old + 5, (3, 4): old + 9}) == 2
    assert to_refresh(3, {(1, 3): old - 2, (2, 3): 0.0}) is None


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.inf, math.nan, 2e12])
def test_absurd_bandwidths_are_dropped(bandwidth: float) -> None:
    assert not plausible(LinkRow(1, 2, 1e-3, bandwidth))


@pytest.mark.parametrize("latency", [0.0, -1.0, math.inf, math.nan, 61.0])
def test_absurd_latencies_are_dropped(latency: float) -> None:
    assert not plausible(LinkRow(1, 2, latency, 1e6))


@pytest.mark.parametrize("row", [LinkRow(1, 1, 1e-3, 1e6), LinkRow(1, 2, 1e-3, 1e6, 0), LinkRow(1, 2, 1e-3, 1e6, 65)])
def test_other_absurd_rows_are_dropped(row: LinkRow) -> None:
    assert not plausible(row)
