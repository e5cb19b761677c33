"""Links of several streams on paths of their own, of which one drops everything from one moment to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Event, Hosts

BOTH = {0, 1}
STREAMS = 3


def _drop(hosts: Hosts, ends: list[int]) -> None:
    """All packets of the connection between two ports, both ways, at host 0."""
    near, far = ends
    rules = "add table ip lost; "
    for hook, source, target in (("input", far, near), ("output", near, far)):
        rules += f"add chain ip lost {hook} {{ type filter hook {hook} priority 0; }}; "
        rules += f"add rule ip lost {hook} tcp sport {source} tcp dport {target} drop; "
    hosts.network.run(0, "nft", rules)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1], ids=["first", "second"])
def test_a_path_that_drops_all_costs_a_stream_and_nothing_else(make_hosts: Callable[..., Hosts], victim: int) -> None:
    """No operation fails, no view changes; the other streams carry on."""
    hosts = make_hosts(2)
    hosts.start("stripe_on", streams=STREAMS)
    before = hosts.next_from_each("result", BOTH, 40)
    ends: list[Any] = before[0]["ends"]
    assert len(ends) == STREAMS
    _drop(hosts, ends[victim])

    def without(event: Event) -> bool:  # there may be a new one in its place already
        return sorted(ends[victim]) not in map(sorted, event["ends"])

    after = hosts.next_from_each("result", BOTH, 30, without)
    later = hosts.next_from_each("result", BOTH, 30, lambda event: event["round"] >= after[event["peer"]]["round"] + 20)
    assert {event["epoch"] for event in later.values()} == {before[0]["epoch"]}
