"""The contract of a communicator among simulated peers, without faults: messages, windows, and both at once."""

from __future__ import annotations

from typing import Any

import pytest

from collcomm.simulate import world as worlds
from collcomm.simulate.world import Options, World
from tests.support.contract import CONTRACT

SECONDS = 3600.0  # simulated
CHECKS = ("reductions", "kinds", "uneven", "bits", "views_and_strides", "mismatches")  # those that start no thread


class Calm(World):
    """``n`` peers on ``hosts`` hosts (0: each on its own), of which nobody comes or goes, run ``body``."""

    def __init__(self, seed: int, n: int, hosts: int):
        self._forming = True
        super().__init__(Options(seed, peers=n, faults=0))
        self._forming = False
        self.hosts = hosts
        self._join_options = {"min_size": n, "on_failure": "retry"}
        for _ in range(n):
            self.spawn()

    def spawn(self) -> Any:
        return None if self._forming else super().spawn()


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize(("n", "hosts"), [(3, 0), (3, 1), (4, 2), (5, 3)], ids=["messages", "windows", "2+2", "2+2+1"])
def test_contract(name: str, n: int, hosts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []

    def body(peer: Any, comm: Any) -> None:
        CONTRACT[name](comm)
        kept.append(peer.name)

    monkeypatch.setattr(worlds, "program", body)
    world = Calm(seed=n, n=n, hosts=hosts)
    try:
        assert world.scheduler.run_until(SECONDS, lambda: len(kept) == n), world.log_lines
    finally:
        world.close()
