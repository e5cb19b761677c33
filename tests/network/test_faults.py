"""What breaks in networks while the group works: one path between two hosts, a host's cable."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from .conftest import Event, Hosts

ALL = {0, 1, 2, 3}
EVICTED_SECONDS = 3.0  # from the cable being pulled to a result of those that are left
REROUTED_SECONDS = 30.0  # from a path being cut to a result in a new view; three tries to mend the link are part of it


def _running(hosts: Hosts) -> dict[int, int]:
    """Start peers that reduce without pause. Host by rank."""
    hosts.start("reduce_on")
    joined = hosts.next_from_each("joined", ALL, 40)
    hosts.next_from_each("result", ALL, 20, lambda event: event["round"] >= 10)
    return {event["rank"]: index for index, event in joined.items()}


def _group_without(lost: set[str]) -> Callable[[Event], bool]:
    return lambda event: not lost & set(event["members"])


@pytest.mark.parametrize("elements", [64, 1 << 19], ids=["small", "large"])
def test_an_unplugged_host_is_evicted_and_the_others_go_on(make_hosts: Callable[..., Hosts], elements: int) -> None:
    hosts = make_hosts(4)
    hosts.start("reduce_on", elements=elements)
    hosts.next_from_each("result", ALL, 40, lambda event: event["round"] >= 10)
    hosts.peers.excuse(2)
    pulled = time.monotonic()
    hosts.network.unplug(2)
    after = hosts.next_from_each("result", ALL - {2}, 20, _group_without({"host-2"}))
    assert {tuple(event["members"]) for event in after.values()} == {tuple(next(iter(after.values()))["members"])}
    assert all(len(event["members"]) == 3 for event in after.values())
    assert max(event["at"] for event in after.values()) - pulled <= EVICTED_SECONDS
    hosts.next_from_each("result", ALL - {2}, 10, lambda event: event["round"] >= after[event["peer"]]["round"] + 10)


@pytest.mark.slow
def test_a_cut_path_between_two_hosts_does_not_stop_the_group(make_hosts: Callable[..., Hosts]) -> None:
    """Control messages of both still reach the coordinator, so neither looks dead; no data passes between them."""
    hosts = make_hosts(4)
    at = _running(hosts)
    pair, others = {at[0], at[1]}, {at[2], at[3]}
    for index in pair:
        hosts.peers.excuse(index)
    cut = time.monotonic()
    hosts.network.cut(at[0], at[1])
    after = hosts.next_from_each("result", others, 60, lambda event: event["at"] > cut and event["epoch"] > 1)
    members = {tuple(event["members"]) for event in after.values()}
    assert max(event["at"] for event in after.values()) - cut <= REROUTED_SECONDS
    (kept,) = members
    assert {f"host-{index}" for index in others} < set(kept), "one of the pair works on with the others"
    hosts.next_from_each("result", others, 10, lambda event: event["round"] >= after[event["peer"]]["round"] + 10)
