"""What the loss of the coordinator costs a group at work: until newcomers are admitted again, and the longest pause meanwhile.

Peers are threads of this process that reduce and step without pause. The coordinator is killed and started again with a journal;
or, with an etcd at hand, the one that leads is killed and another takes over.
"""

from __future__ import annotations

import tempfile
import threading
import time
from typing import Any

import numpy as np

import collcomm

from .launch import CoordinatorProcess, free_port
from .measure import summary

JOIN_SECONDS = 30.0
CALM_SECONDS = 2.0  # between two deaths
STANDBYS = 2


def bench_succession(n: int, runs: int, etcd: str | None) -> dict[str, Any]:
    """``etcd``: "http://host:2379" for standby coordinators, None for one with a journal."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--etcd", etcd, "--cluster", folder] if etcd else ["--journal", folder]
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(STANDBYS if etcd else 1)]
        running = {address: CoordinatorProcess(address, options=options) for address in addresses}
        crew = _Crew(",".join(addresses), n)
        try:
            for process in running.values():
                process.__enter__()
            crew.start()
            resumed, pauses = [], []
            for number in range(runs):
                time.sleep(CALM_SECONDS)
                leader = max(addresses, key=lambda address: _leads(running[address].log))
                crew.longest = 0.0
                died = time.monotonic()
                running[leader].kill()
                running[leader].__exit__(None, None, None)
                running[leader] = CoordinatorProcess(leader, options=options)
                if not etcd:
                    running[leader].__enter__()
                collcomm.join(crew.where, name=f"newcomer-{number}", min_size=n, timeout=JOIN_SECONDS).leave()
                resumed.append(time.monotonic() - died)
                pauses.append(crew.longest)
                if etcd:
                    running[leader].__enter__()
            crew.end()
        finally:
            crew.stop = True
            for process in running.values():
                process.__exit__(None, None, None)
    how = "standby" if etcd else "restart"
    return {"kind": "coordinator", "how": how, "peers": n, "resumed": summary(resumed), "pause": summary(pauses)}


def _leads(log: str) -> int:
    return log.count("this coordinator leads") - log.count("does not lead any more")


class _Crew:
    """``longest``: the longest time from one all_reduce to the next, at any peer, since it was set to zero."""

    def __init__(self, where: str, n: int):
        self.where = where
        self.stop = False
        self.longest = 0.0
        self._n = n
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._work, args=(index,), daemon=True) for index in range(n)]
        self._ready = threading.Barrier(n + 1)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._ready.wait(JOIN_SECONDS)

    def _work(self, index: int) -> None:
        try:
            with collcomm.join(self.where, name=f"peer-{index}", min_size=self._n, timeout=JOIN_SECONDS) as comm:
                self._ready.wait(JOIN_SECONDS)
                last = time.monotonic()
                while not comm.all_reduce(np.array([self.stop], np.uint8), op="max")[0]:
                    now = time.monotonic()
                    self.longest = max(self.longest, now - last)
                    last = now
                    comm.step()
        except BaseException as error:
            self._errors.append(error)
            self._ready.abort()

    def end(self) -> None:
        """Raises what a peer has raised."""
        self.stop = True
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        if self._errors:
            raise self._errors[0]
