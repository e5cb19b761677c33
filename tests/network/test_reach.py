"""Hosts that take no connections from others, as behind a firewall or address translation."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.hastycoordinator import RETURN_SECONDS

from .conftest import Hosts

START_SECONDS = 30.0
JOIN_SECONDS = 2.5  # the coordinator knows by then of a peer that joins, also if its first packet was lost
FOUND_SECONDS = 30.0  # each direction that is tried in vain takes two


def close_ports(hosts: Hosts, index: int, verdict: str) -> None:
    """Host ``index`` can dial and not be dialled: new connections to it are refused with a reset, or dropped."""
    what = {"refuse": "reject with tcp reset", "drop": "drop"}[verdict]
    rules = (
        "add table ip closed;"
        "add chain ip closed in { type filter hook input priority 0; };"
        f"add rule ip closed in tcp flags & (syn | ack) == syn {what}"
    )
    hosts.network.run(index, "nft", rules)


def start_in_order(hosts: Hosts, task: str, **options: Any) -> None:
    """Member ids follow the numbers of hosts."""
    count = len(hosts.layout)
    for index in range(count):
        case = {"task": task, "address": hosts.coordinator.address, "n": count, "index": index}
        hosts.peers.start(index, {**case, **options})
        hosts.next_from_each("joins", {index}, START_SECONDS)
        time.sleep(JOIN_SECONDS)


def ways(hosts: Hosts, count: int) -> dict[int, dict[str, str]]:
    found = hosts.next_from_each("reached", set(range(count)), FOUND_SECONDS + 40)
    assert {event["epoch"] for event in found.values()} == {1}, "nobody was suspected"
    assert max(event["seconds"] for event in found.values()) < FOUND_SECONDS
    return {index: event["ways"] for index, event in found.items()}


@pytest.mark.slow
@pytest.mark.parametrize("verdict", ["refuse", "drop"])
def test_a_host_that_cannot_be_dialled_dials(make_hosts: Callable[..., Hosts], verdict: str) -> None:
    hosts = make_hosts(3)
    close_ports(hosts, 0, verdict)
    start_in_order(hosts, "reach_all")
    found = ways(hosts, 3)
    assert found[0] == {"host-1": "reversed", "host-2": "reversed"}
    assert found[1]["host-2"] == "direct"


@pytest.mark.slow
@pytest.mark.parametrize("verdict", ["refuse", "drop"])
def test_two_such_hosts_meet_at_a_third(make_hosts: Callable[..., Hosts], verdict: str) -> None:
    hosts = make_hosts(3)
    for index in (1, 2):
        close_ports(hosts, index, verdict)
    start_in_order(hosts, "reach_all")
    found = ways(hosts, 3)
    assert found[1]["host-2"] == found[2]["host-1"] == "via host-0"


@pytest.mark.slow
def test_the_group_goes_on_when_the_relay_is_unplugged(make_hosts: Callable[..., Hosts]) -> None:
    hosts = make_hosts(4)
    for index in (2, 3):
        close_ports(hosts, index, "refuse")
    start_in_order(hosts, "reduce_on")
    hosts.next_from_each("result", {0, 1, 2, 3}, 60, lambda event: event["round"] >= 10)
    hosts.peers.excuse(0)
    hosts.network.unplug(0)
    rest = {"host-1", "host-2", "host-3"}
    after = hosts.next_from_each("result", {1, 2, 3}, 40, lambda event: set(event["members"]) == rest)
    hosts.next_from_each("result", {1, 2, 3}, 20, lambda event: event["round"] >= after[event["peer"]]["round"] + 10)


@pytest.mark.slow
def test_a_path_that_is_cut_is_bypassed(make_hosts: Callable[..., Hosts]) -> None:
    """Both ends live, and nothing passes between them in either direction: a third host relays, and nobody is set aside."""
    hosts = make_hosts(3)
    hosts.network.cut(0, 1)
    start_in_order(hosts, "reach_all")
    found = ways(hosts, 3)
    assert found[0]["host-1"] == found[1]["host-0"] == "via host-2"


@pytest.mark.slow
def test_a_pair_returns_from_its_relay_when_its_path_is_whole_again(make_hosts: Callable[..., Hosts]) -> None:
    hosts = make_hosts(4, coordinator="tests.support.hastycoordinator")
    everybody = {0, 1, 2, 3}
    start_in_order(hosts, "reduce_on")
    hosts.next_from_each("result", everybody, 60, lambda event: event["round"] >= 10)
    hosts.network.cut(0, 1)
    relayed = hosts.next_from_each(
        "result", everybody, 60, lambda event: len(event["members"]) == 4 and event["epoch"] > 1
    )
    hosts.next_from_each("result", everybody, 60, lambda event: event["round"] >= relayed[event["peer"]]["round"] + 10)
    assert "host-0 and host-1 are to be linked through host-2" in hosts.coordinator.log
    hosts.network.mend(0)
    time.sleep(RETURN_SECONDS)  # sooner, it would not even try
    hosts.peers.kill(3)
    rest = {"host-0", "host-1", "host-2"}
    after = hosts.next_from_each("result", {0, 1, 2}, 40, lambda event: set(event["members"]) == rest)
    hosts.next_from_each("result", {0, 1, 2}, 40, lambda event: event["round"] >= after[event["peer"]]["round"] + 10)
    returned = "host-0 and host-1, whose link broke, are to be linked by a connection from host-1 again"
    log = hosts.coordinator.log
    assert returned in log and "host-0 and host-1 are to be" not in log.partition(returned)[2], log
