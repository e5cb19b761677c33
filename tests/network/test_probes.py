"""Links between hosts are probed beside the run, on networks whose rates are known."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

SECONDS = 60.0
LEAST = 0.4  # of a link's rate: whoever has no processor while a train of probes passes measures that, too
MOST = 1.3


@pytest.mark.parametrize("rate", [2.5e6, 12.5e6, 125e6], ids=["20 Mbit/s", "100 Mbit/s", "1 Gbit/s"])
def test_bandwidth_is_that_of_the_link(make_hosts: Callable[..., Any], rate: float) -> None:
    hosts = make_hosts(2, rate=rate)
    hosts.start("probed")
    told = hosts.next_from_each("probed", {0, 1}, SECONDS)
    for event in told.values():
        rows = {(source, target): bandwidth for source, target, _, bandwidth, _ in event["rows"]}
        assert len(rows) == 2, "both directions, at both ends"
        for bandwidth in rows.values():
            assert LEAST * rate <= bandwidth <= MOST * rate, f"{bandwidth / rate:.0%} of the link"
    hosts.peers.wait(SECONDS)


def test_all_pairs_of_a_small_group_are_probed_within_seconds_and_nothing_is_left(
    make_hosts: Callable[..., Any],
) -> None:
    hosts = make_hosts(4, rate=125e6)
    hosts.start("probed")
    told = hosts.next_from_each("probed", set(range(4)), SECONDS)
    ids = sorted({row[0] for event in told.values() for row in event["rows"]})
    for event in told.values():
        assert len(event["rows"]) == 6, "three links, both directions"
        assert all(0 < row[2] < 0.05 for row in event["rows"]), "one way takes microseconds to a few milliseconds"
        assert event["seconds"] < 5.0, "one second where nothing else runs"
        assert event["threads"] == [] and event["links"] == 0
    assert {(row[0], row[1]) for event in told.values() for row in event["rows"]} == {
        (source, target) for source in ids for target in ids if source != target
    }
    everything = [row[3] for event in told.values() for row in event["rows"]]
    assert LEAST * 125e6 <= median(everything) <= MOST * 125e6
    hosts.peers.wait(SECONDS)


def test_members_of_one_host_are_not_probed(make_hosts: Callable[..., Any]) -> None:
    hosts = make_hosts(1, layout=(0, 0))
    hosts.start("every_collective")
    hosts.next_from_each("done", {0, 1}, SECONDS)
    hosts.peers.wait(SECONDS)
