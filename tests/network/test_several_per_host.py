"""Several peers in each host: they meet in shared memory there, and the network carries each byte once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from .conftest import Hosts


@pytest.mark.slow
@pytest.mark.parametrize("layout", [(0, 1, 0, 1), (0, 0, 1), (0, 1, 1, 2, 2, 2)], ids=["2+2", "2+1", "1+2+3"])
def test_every_collective_with_unequal_hosts(make_hosts: Callable[..., Hosts], layout: Sequence[int]) -> None:
    hosts = make_hosts(max(layout) + 1, layout=layout)
    hosts.start("every_collective")
    hosts.next_from_each("done", set(range(len(layout))), 150)
    hosts.peers.wait(20)
    assert all(process.returncode == 0 for process in hosts.peers.processes.values())


def test_deaths_until_one_host_is_left(make_hosts: Callable[..., Hosts]) -> None:
    """First the ranks of a host become unequally many; then all who are left share one host, and its memory."""
    hosts = make_hosts(2, layout=(0, 1, 0, 1))
    hosts.start("reduce_on")
    left = {0, 1, 2, 3}
    hosts.next_from_each("result", left, 40)
    for victim in (1, 3):
        hosts.peers.kill(victim)
        left.discard(victim)
        names = {f"host-{index}" for index in left}
        hosts.next_from_each("result", left, 30, lambda event, names=names: set(event["members"]) == names)  # type: ignore[misc]
