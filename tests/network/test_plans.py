"""Links are measured, a plan is fitted to them, and members take it into use together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from collcomm.laboratory import asymmetric_ring, two_sites

SECONDS = 90.0
RING = (0, 2, 3, 1)  # what is fast, by host
FAST, SLOW = 12e6, 2e6


@pytest.mark.slow
def test_a_hidden_ring_is_found_and_everything_runs_by_it(make_hosts: Callable[..., Any]) -> None:
    after = dict(zip(RING, (*RING[1:], 0), strict=True))
    rates = [[FAST if after[source] == target else SLOW for target in range(4)] for source in range(4)]
    hosts = make_hosts(asymmetric_ring(rates))
    hosts.start("planned")
    told = hosts.next_from_each("planned", set(range(4)), SECONDS)
    orders = {tuple(event["order"]) for event in told.values()}
    start = RING.index(int(told[0]["order"][0].removeprefix("host-")))
    assert orders == {tuple(f"host-{host}" for host in (*RING[start:], *RING[:start]))}
    assert len({event["revision"] for event in told.values()}) == 1
    assert len({event["explained"].splitlines()[0] for event in told.values()}) == 1
    hosts.next_from_each("done", set(range(4)), SECONDS)
    hosts.peers.wait(SECONDS)


@pytest.mark.slow
def test_sites_are_found_and_a_member_that_dies_is_left_out_of_the_plan(make_hosts: Callable[..., Any]) -> None:
    hosts = make_hosts(two_sites(2, 12.5e6, 6e6, 0.01))
    hosts.start("planned", lasts=True)
    told = hosts.next_from_each("planned", set(range(4)), SECONDS)
    for event in told.values():
        site_of = dict(zip(event["order"], event["sites"], strict=True))
        assert site_of["host-0"] == site_of["host-1"] != site_of["host-2"] == site_of["host-3"]
    hosts.peers.kill(1)
    later = hosts.next_from_each("result", {0, 2, 3}, SECONDS, lambda event: len(event["order"]) == 3)
    for event in later.values():
        assert sorted(event["order"]) == ["host-0", "host-2", "host-3"] and event["revision"] > 0
    for index in (0, 2, 3):
        hosts.peers.kill(index)
