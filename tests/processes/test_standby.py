"""The loss of the coordinator while peers reduce: restarted, with or without a journal, or replaced by a standby."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import collcomm
from collcomm.bench.launch import CoordinatorProcess, free_port
from tests.support.etcd import Etcd

JOIN_SECONDS = 30.0
RUN_SECONDS = 60.0


class Load:
    """Peers (threads) that reduce and step without pause, each result checked."""

    def __init__(self, address: str):
        self.address = address
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.views: dict[str, list[int]] = {}
        self.longest: dict[str, float] = {}
        self._threads: list[threading.Thread] = []

    def add(self, name: str, min_size: int) -> None:
        thread = threading.Thread(target=self._live, args=(name, min_size), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _live(self, name: str, min_size: int) -> None:
        try:
            comm = collcomm.join(
                self.address, name=name, min_size=min_size, timeout=JOIN_SECONDS, op_timeout=JOIN_SECONDS
            )
            self.views[name] = []
            last = time.monotonic()
            while True:
                members = comm.view.ids[comm.rank]
                total = comm.all_reduce(np.array([self.stop.is_set(), members], np.int64))
                assert total[1] == sum(comm.view.ids)
                now = time.monotonic()
                self.longest[name] = max(self.longest.get(name, 0.0), now - last)
                last = now
                if not self.views[name] or self.views[name][-1] != comm.view.epoch:
                    self.views[name].append(comm.view.epoch)
                comm.step()
                if total[0]:
                    comm.leave()
                    return
        except BaseException as error:
            self.errors.append(error)

    def wait(self, size: int) -> None:
        """Until so many are members and see each other."""
        until = time.monotonic() + JOIN_SECONDS
        while len({tuple(views[-1:]) for views in self.views.values()}) != 1 or len(self.views) < size:
            assert not self.errors, self.errors
            assert time.monotonic() < until, self.views
            time.sleep(0.01)

    def end(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(RUN_SECONDS)
        assert not self.errors, self.errors
        for views in self.views.values():
            assert views == sorted(set(views)), "an epoch came twice, or went back"


@contextmanager
def load(address: str, peers: int) -> Iterator[Load]:
    running = Load(address)
    for number in range(peers):
        running.add(f"peer-{number}", peers)
    running.wait(peers)
    try:
        yield running
    finally:
        running.end()


@pytest.mark.slow
@pytest.mark.parametrize("remembers", [False, True], ids=["memory", "journal"])
def test_peers_reduce_on_while_the_coordinator_is_away_and_are_taken_over(tmp_path: Path, remembers: bool) -> None:
    address = f"127.0.0.1:{free_port()}"
    options = ["--journal", str(tmp_path / "journal")] if remembers else []
    with CoordinatorProcess(address, options=options) as coordinator, load(address, 3) as running:
        for life in range(2):
            coordinator.kill()
            coordinator.__exit__(None, None, None)
            time.sleep(0.5)  # what is tested is that this passes
            coordinator = CoordinatorProcess(address, options=options)
            coordinator.__enter__()
            running.add(f"newcomer-{life}", 3)
            running.wait(4 + life)
        assert max(running.longest.values()) < 3.0
        running.end()
        coordinator.__exit__(None, None, None)


@pytest.mark.slow
def test_a_standby_takes_over_and_two_survive_the_loss_of_both_leaders(tmp_path: Path) -> None:
    pytest.importorskip("etcd3gw", reason="pip install 'collcomm[etcd]'")
    ports = [free_port() for _ in range(3)]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    with Etcd(tmp_path) as etcd:
        coordinators = [CoordinatorProcess(address, options=["--etcd", etcd.url]) for address in addresses]
        for coordinator in coordinators:
            coordinator.__enter__()
        try:
            with load(",".join(addresses), 3) as running:
                for life in range(2):
                    (leader,) = [c for c in coordinators if "leads" in c.log]
                    coordinators.remove(leader)
                    leader.kill()
                    leader.__exit__(None, None, None)
                    running.add(f"newcomer-{life}", 3)
                    running.wait(4 + life)
                assert max(running.longest.values()) < 5.0
        finally:
            for coordinator in coordinators:
                coordinator.__exit__(None, None, None)
