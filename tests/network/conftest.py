"""Hosts that are network namespaces: one peer in each, a coordinator at the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from collcomm.bench.launch import CoordinatorProcess, Peers
from collcomm.laboratory import Laboratory, Network, missing_for_namespaces

PORT = 48148
PEER_PROGRAM = (str(Path(__file__).with_name("peer.py")),)
_MISSING = missing_for_namespaces("nft")

Event = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests, and skip them with the reason where namespaces cannot be had."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.netns)
            if _MISSING is not None:
                item.add_marker(pytest.mark.skip(reason=_MISSING))


class Hosts:
    """A network, its coordinator, and peers in its hosts; ``layout``: the host of each peer."""

    def __init__(self, network: Laboratory, coordinator: CoordinatorProcess, peers: Peers, layout: Sequence[int]):
        self.network = network
        self.layout = layout
        self.coordinator = coordinator
        self.peers = peers

    def start(self, task: str, **options: Any) -> None:
        """Start ``task`` of peer.py as peers named host-0, host-1, ...; one in every host if there is no layout."""
        for index in range(len(self.layout)):
            case = {"task": task, "address": self.coordinator.address, "n": len(self.layout), "index": index}
            self.peers.start(index, {**case, **options})

    def next_from_each(
        self, event: str, indices: set[int], seconds: float, accept: Callable[[Event], bool] = lambda event: True
    ) -> Mapping[int, Event]:
        """The next ``event`` that satisfies ``accept`` from each of ``indices``. Raises TimeoutError."""
        found: dict[int, Event] = {}
        for one in self.peers.events(seconds):
            if one["event"] == event and one["peer"] in indices - set(found) and accept(one):
                found[one["peer"]] = one
                if set(found) == indices:
                    break
        return found


@pytest.fixture
def make_hosts() -> Iterator[Callable[..., Hosts]]:
    """make_hosts(4, ipv6=False) -> Hosts, or make_hosts(a laboratory); all of it is gone when the test ends. ``coordinator``: the
    module that is run as one."""
    with ExitStack() as stack:

        def make(
            network: int | Laboratory, layout: Sequence[int] = (), coordinator: str = "collcomm", **options: Any
        ) -> Hosts:
            network = stack.enter_context(Network(network, **options) if isinstance(network, int) else network)
            places = layout or range(network.hosts)
            address = f"{network.hub_address}:{PORT}"
            process = stack.enter_context(CoordinatorProcess(address, network.enter(None), module=coordinator))
            peers = stack.enter_context(Peers(lambda index: network.enter(places[index]), PEER_PROGRAM))
            return Hosts(network, process, peers, places)

        yield make
