"""The network that measured links make."""

from __future__ import annotations

import math

import pytest
from collcomm.planner.measured import UNKNOWN_BANDWIDTH, UNKNOWN_LATENCY, Measured, Place

from collcomm.types import LinkRow


def places(*hosts: int, sites: str = "") -> list[Place]:
    """Members 10, 11, ... on these hosts; ``sites``: a letter for each, "." for none."""
    return [Place(10 + rank, host, sites[rank].strip(".") if sites else "") for rank, host in enumerate(hosts)]


def rows_of(n: int, latency: float, bandwidth: float) -> list[LinkRow]:
    return [LinkRow(10 + i, 10 + j, latency, bandwidth) for i in range(n) for j in range(n) if i != j]


def least(network: Measured, source: int, target: int) -> float:
    return min(network.capacities[number] for number in network.path(source, target))


def test_what_was_measured_is_what_is_planned_by() -> None:
    network = Measured(places(0, 1, 2), [*rows_of(3, 1e-4, 1e8), LinkRow(10, 12, 3e-4, 2e7)])
    assert network.latency(0, 2) == 3e-4 and network.latency(2, 0) == 1e-4
    assert least(network, 0, 2) == 2e7 and least(network, 2, 0) == 1e8


def test_without_any_measurement_there_is_a_network_all_the_same() -> None:
    network = Measured(places(0, 1), [])
    assert network.latency(0, 1) == UNKNOWN_LATENCY and least(network, 1, 0) == UNKNOWN_BANDWIDTH


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, -math.inf, math.nan, 1e30])
def test_what_cannot_be_is_not_believed(value: float) -> None:
    good = rows_of(3, 1e-4, 1e8)
    network = Measured(places(0, 1, 2), [*good[1:], LinkRow(10, 11, 1e-4, value), LinkRow(10, 11, value, 1e8)])
    assert network.latency(0, 1) == 1e-4 and least(network, 0, 1) == 1e8


def test_a_link_that_was_measured_one_way_is_like_that_the_other_way() -> None:
    network = Measured(places(0, 1, 2), [LinkRow(10, 11, 1e-4, 5e7), LinkRow(10, 12, 1e-4, 1e8)])
    assert least(network, 1, 0) == 5e7


def test_links_that_were_not_measured_are_like_others_between_the_same_sites() -> None:
    near = [LinkRow(10 + i, 10 + j, 1e-4, 1e8) for i, j in ((0, 1), (1, 2), (3, 4), (4, 5))]
    far = [LinkRow(10, 13, 2e-2, 5e6)]
    network = Measured(places(*range(6), sites="aaabbb"), near + far)
    assert network.sites == (0, 0, 0, 1, 1, 1)
    assert network.latency(2, 5) == 2e-2 and least(network, 2, 5) == 5e6
    assert network.latency(3, 5) == 1e-4 and least(network, 3, 5) == 1e8


def test_sites_are_found_by_latency() -> None:
    def latency(i: int, j: int) -> float:
        return 1e-4 * (1 + (i * j) % 3) if i % 2 == j % 2 else 1e-2

    rows = [LinkRow(10 + i, 10 + j, latency(i, j), 1e8) for i in range(8) for j in range(8) if i != j]
    assert Measured(places(*range(8)), rows).sites == (0, 1) * 4


def test_one_lan_is_one_site_though_its_latencies_differ() -> None:
    rows = [LinkRow(10 + i, 10 + j, 2e-5 * (1 + i * j), 1e8) for i in range(5) for j in range(5) if i != j]
    assert set(Measured(places(*range(5)), rows).sites) == {0}


def test_what_the_user_says_of_sites_counts() -> None:
    network = Measured(places(0, 1, 2, 3, sites="abab"), rows_of(4, 1e-4, 1e8))
    assert network.sites == (0, 1, 0, 1)


def test_ranks_of_one_host_share_its_card_and_not_the_network() -> None:
    network = Measured(places(0, 0, 1), rows_of(3, 1e-4, 1e8))
    assert set(network.path(0, 2)) & set(network.path(1, 2))
    assert not set(network.path(0, 1)) & set(network.path(0, 2))


def test_what_crosses_sites_shares_a_trunk_each_way() -> None:
    network = Measured(places(0, 1, 2, 3, sites="aabb"), rows_of(4, 1e-4, 1e8))
    there, also, back = network.path(0, 2), network.path(1, 3), network.path(2, 0)
    assert len(set(there) & set(also)) == 1 and not set(there) & set(back)


def test_sites_that_the_user_tells_apart_are_not_joined_by_who_says_nothing() -> None:
    network = Measured(places(0, 1, 2, sites="xy."), rows_of(3, 1e-4, 1e8))
    assert network.sites[0] != network.sites[1]


def test_a_slow_cable_counts_for_all_ranks_of_its_hosts() -> None:
    rows = [LinkRow(10, 12, 1e-4, 1e6), LinkRow(10, 14, 1e-4, 1e9), LinkRow(12, 14, 1e-4, 1e9)]
    network = Measured(places(0, 0, 1, 1, 2), rows)
    assert {least(network, i, j) for i in (0, 1) for j in (2, 3)} == {1e6}


def test_the_ways_of_an_asymmetric_trunk_are_kept_apart() -> None:
    rows = [LinkRow(10, 12, 1e-4, 1e6), LinkRow(12, 10, 1e-4, 1e8)]
    network = Measured(places(0, 1, 2, 3, sites="aabb"), rows)
    assert least(network, 1, 3) == 1e6 and least(network, 3, 1) == 1e8
