"""Groups over a real network stack: every peer in a host of its own, IPv4 and IPv6, hosts with several interfaces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Hosts

ALL = {0, 1, 2, 3}
SECONDS = 80.0


@pytest.mark.slow
@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_every_collective_across_four_hosts(make_hosts: Callable[..., Hosts], ipv6: bool) -> None:
    hosts = make_hosts(4, ipv6=ipv6)
    hosts.start("every_collective")
    joined = hosts.next_from_each("joined", ALL, SECONDS)
    addresses = {f"host-{index}": hosts.network.address(index).strip("[]") for index in ALL}
    assert all(event["hosts"] == addresses for event in joined.values())
    done = hosts.next_from_each("done", ALL, SECONDS)
    assert all(event["sent"] > 4 << 20 for event in done.values())
    hosts.peers.wait(20)
    assert all(process.returncode == 0 for process in hosts.peers.processes.values())


def test_the_advertised_address_is_that_of_the_route_to_the_coordinator(make_hosts: Callable[..., Hosts]) -> None:
    hosts = make_hosts(2)
    for index in (0, 1):  # a second card, first by name and with the default route, that leads to nobody
        hosts.network.run(index, *["ip", "link", "add", "aaa0", "type", "veth", "peer", "name", "aaa1"])
        hosts.network.run(index, *f"ip addr add 10.99.{index}.1/24 dev aaa0".split())
        for device in ("aaa0", "aaa1"):
            hosts.network.run(index, "ip", "link", "set", device, "up")
        hosts.network.run(index, *f"ip route add default via 10.99.{index}.2".split())
    hosts.start("every_collective")
    joined = hosts.next_from_each("joined", {0, 1}, SECONDS)
    expected = {f"host-{index}": hosts.network.address(index) for index in (0, 1)}
    assert [event["hosts"] for event in joined.values()] == [expected, expected]
    hosts.next_from_each("done", {0, 1}, SECONDS)
    hosts.peers.wait(20)


def test_the_network_is_gone_afterwards(make_hosts: Callable[..., Hosts]) -> None:
    """Entering and leaving a network changes nothing that the machine itself sees."""
    before = sorted(path.name for path in Path("/sys/class/net").iterdir())
    make_hosts(2)
    assert sorted(path.name for path in Path("/sys/class/net").iterdir()) == before
