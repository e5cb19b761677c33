"""The contract of a communicator among simulated peers, without faults: messages, windows, and both at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from collcomm.transports.sim import SimTransport

from collcomm.simulate import host
from collcomm.simulate import world as worlds
from collcomm.simulate.world import Options, World
from tests.support.contract import CONTRACT

SECONDS = 3600.0  # simulated
CHECKS = ("reductions", "kinds", "uneven", "bits", "views_and_strides", "mismatches")  # those that start no thread


class Calm(World):
    """``n`` peers on ``hosts`` hosts (0: each on its own), of which nobody comes or goes, run ``body``. ``layout``: the host of
    each peer, where that matters."""

    def __init__(self, seed: int, n: int, hosts: int, layout: Sequence[int] = ()):
        self._layout, self._ports = layout, list[int]()
        self._forming = True
        super().__init__(Options(seed, peers=n, faults=0))
        self._forming = False
        self.hosts = hosts
        self.odd = True  # the contract has calls that differ
        self._join_options = {"min_size": n, "on_failure": "retry"}
        for _ in range(n):
            self.spawn()

    def host_of(self, port: int) -> str:
        if not self._layout:
            return super().host_of(port)
        self._ports += [port] * (port not in self._ports)
        return f"host {self._layout[self._ports.index(port)]}"

    def spawn(self) -> Any:
        return None if self._forming else super().spawn()


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize(("n", "hosts"), [(3, 0), (3, 1), (4, 2), (5, 3)], ids=["messages", "windows", "2+2", "2+2+1"])
def test_contract(name: str, n: int, hosts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(lambda: Calm(seed=n, n=n, hosts=hosts), n, CONTRACT[name], monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("n", [2, 3, 5])
def test_contract_over_several_streams(name: str, n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small messages, too, go by flows then."""
    monkeypatch.setattr(host, "SimTransport", partial(SimTransport, streams=3))
    _run(lambda: Calm(seed=n, n=n, hosts=0), n, CONTRACT[name], monkeypatch)


def test_streams_that_die_are_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each link one is reset, some time in a run of operations of all sizes; no view changes."""
    n = 3
    monkeypatch.setattr(host, "SimTransport", partial(SimTransport, streams=3))
    worlds_made: list[Calm] = []

    def make() -> Calm:
        world = Calm(seed=11, n=n, hosts=0)
        worlds_made.append(world)
        return world

    def body(comm: Any) -> None:
        network, draw = worlds_made[0].network, np.random.default_rng(comm.rank)
        epoch = comm.view.epoch
        for size in (10, 300_000, 10, 70_000, 1_000_000, 3):
            for _ in range(2):
                result = comm.all_reduce(np.full(size, comm.rank + 1))
                assert (result == n * (n + 1) // 2).all()
            for link in comm._session.transport._links.values():
                living = [stream for stream in link.streams if not stream.retired]
                if len(living) == 3 and comm.rank < comm.view.rank_of(link.member):
                    end = living[int(draw.integers(3))].socket
                    delay = float(draw.uniform(0, 0.02))
                    network.scheduler.after(delay, partial(network.reset, end))
        assert comm.view.epoch == epoch
        assert all(
            sum(not stream.retired for stream in link.streams) == 2 for link in comm._session.transport._links.values()
        )

    _run(make, n, body, monkeypatch)


@pytest.mark.parametrize("seed", [3, 7, 33, 34])
def test_links_are_made_before_anybody_waits(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In these orders of joining, ranks 0 to 3 of an all_gather across hosts each waited for the next one to make their link, and
    the fifth for a message of rank 0."""
    layout = (2, 0, 1, 1, 2, 2)

    def body(comm: Any) -> None:
        part = comm.split(range(comm.size))  # which has no links yet
        part.all_gather(np.ones(12))
        part.close()

    _run(lambda: Calm(seed=seed, n=len(layout), hosts=0, layout=layout), len(layout), body, monkeypatch)


def _run(make: Callable[[], Calm], n: int, check: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []

    def body(peer: Any, comm: Any) -> None:
        check(comm)
        kept.append(peer.name)

    monkeypatch.setattr(worlds, "program", body)
    world = make()
    try:
        assert world.scheduler.run_until(SECONDS, lambda: len(kept) == n), world.log_lines
    finally:
        world.close()
