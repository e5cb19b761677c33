"""A group in a laboratory, with its coordinator, and the faults that are put into it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..laboratory import Laboratory
from .launch import Peers, child_environment, die_with_parent

PORT = 48148
HOSTS = 8
RATE = 2.5e6  # bytes/s of each link: the wire, not the two processors that all peers share, is what takes time
SMALL_COMPUTE_SECONDS = 0.01
JOIN_SECONDS = 90.0
LISTEN_SECONDS = 30.0
END_SECONDS = 2.0
DAY = 86400.0
CPU = Path("/sys/fs/cgroup/cpu")
Row = dict[str, Any]


class Ward:
    """A group of peers in a laboratory of `HOSTS`, and its coordinator. ``members``: ids by index, which for the first ones is
    that of their host; ``round``: the last one that the first peer has ended.

    ``nbytes``: of each operation; ``compute``: seconds of processor time between two; ``uneven``: the work of peers differs,
    always and by chance; ``size``: how many there are; ``slow``: what the coordinator does about slow ones.
    """

    def __init__(
        self,
        lab: Laboratory,
        orders: str,
        nbytes: int,
        compute: float = SMALL_COMPUTE_SECONDS,
        uneven: bool = False,
        size: int = HOSTS,
        slow: str = "avoid",
    ):
        self.lab = lab
        self.round = 0
        self.orders = Path(orders)
        self.address = f"{lab.hub_address}:{PORT}"
        self.heard: queue.Queue[Row] = queue.Queue()
        self._traffic: list[Row] = []
        self._relayed: set[frozenset[int]] = set()  # pairs of members that are linked through a third
        self._open: dict[int, list[int]] = {}  # findings that hold, and the members in them
        command = [*lab.enter(None), sys.executable, "-m", "collcomm.bench.sickpeer", self.address, slow]
        self._coordinator = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent, env=child_environment()
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.wait(lambda event: event["event"] == "listens", LISTEN_SECONDS)
        self.peers = Peers(lambda index: lab.enter(index % HOSTS))
        self.peers.__enter__()
        self._case = {"case": "sick_peer", "address": self.address, "n": size, "orders": orders}
        self._case |= {"nbytes": nbytes, "compute": compute, "uneven": uneven}
        self.members: dict[int, int] = {}
        self._joined = threading.Condition()
        threading.Thread(target=self._follow, daemon=True).start()
        self.join(range(size))

    def join(self, indices: Sequence[int]) -> None:
        """Raises TimeoutError when one has not joined in time."""
        for index in indices:
            self.peers.start(index, {**self._case, "index": index})
        with self._joined:
            if not self._joined.wait_for(lambda: set(indices) <= self.members.keys(), JOIN_SECONDS):
                raise TimeoutError(f"of peers {list(indices)} not all have joined within {JOIN_SECONDS:.0f} s")

    def seconds_per_round(self, seconds: float) -> float:
        """Over about so many."""
        began, first = time.monotonic(), self.round
        time.sleep(seconds)
        return (time.monotonic() - began) / max(1, self.round - first)

    def leave(self, index: int) -> None:
        with self.ordered(f"leave-{index}"):
            self.peers.processes[index].wait(JOIN_SECONDS)

    def _follow(self) -> None:
        try:
            for event in self.peers.events(DAY):
                if event["event"] == "joined":
                    with self._joined:
                        self.members[event["peer"]] = event["member"]
                        self._joined.notify_all()
                elif event["event"] == "round" and event["peer"] == 0:
                    self.round = event["round"]
        except RuntimeError as error:
            print(error, file=sys.stderr)

    def _read(self) -> None:
        assert self._coordinator.stdout is not None
        for line in self._coordinator.stdout:
            if not line.startswith("{"):
                continue
            event = json.loads(line)
            if event["event"] == "traffic":
                self._traffic = event["rows"]
                self._relayed = {frozenset(pair["members"]) for pair in event["relayed"]}
                continue
            if event["event"] == "finding":
                self._open[event["id"]] = event["members"]
            elif event["event"] == "over":
                self._open.pop(event["id"], None)
            self.heard.put(event)

    def unsuspected(self) -> list[int]:
        """Hosts of which nothing is being said: what is said already is not said again."""
        said = {member for members in list(self._open.values()) for member in members}
        return [host for host in range(HOSTS) if self.members[host] not in said]

    def carrying(self) -> list[tuple[int, int]]:
        """Links, as hosts, that carry at least half of what the busiest does, and not through a relay: a slow link that nobody
        uses makes nobody slow."""
        hosts = {member: index for index, member in self.members.items() if index < HOSTS}
        rows = [
            (row["sent"], hosts[row["source"]], hosts[row["target"]])
            for row in self._traffic
            if row["source"] in hosts and row["target"] in hosts
        ]
        most = max(sent for sent, _, _ in rows)
        return sorted(
            (source, target)
            for sent, source, target in rows
            if sent >= most / 2 and {self.members[source], self.members[target]} not in self._relayed
        )

    def wait(self, accept: Callable[[Row], bool], seconds: float) -> Row | None:
        """The next line of the coordinator that is accepted; None when none comes in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self.heard.get(timeout=left)
            except queue.Empty:
                break
            if accept(event):
                return event
        return None

    def rest(self, seconds: float) -> list[Row]:
        """All findings within that time."""
        found, deadline = [], time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                event = self.heard.get(timeout=left)
            except queue.Empty:
                break
            if event["event"] == "finding":
                found.append(event)
        return found

    def __enter__(self) -> Ward:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        (self.orders / "end").touch()
        with suppress(subprocess.TimeoutExpired):
            self.peers.wait(END_SECONDS)
        self.peers.__exit__(None, None, None)
        self._coordinator.terminate()
        self._coordinator.wait(10.0)

    # -- faults -------------------------------------------------------------------------------------------------------

    def rate(self, source: int, target: int, rate: float) -> None:
        """Of the link from one host to another."""
        number = 16 + [other for other in range(HOSTS) if other != source].index(target)
        shape = ["rate", f"{rate * 8:.0f}bit", "burst", "16k", "cburst", "16k"]
        self.lab.run(
            source, "tc", "class", "change", "dev", "eth0", "parent", "1:", "classid", f"1:{number:x}", "htb", *shape
        )

    @contextmanager
    def slowed(self, pairs: list[tuple[int, int]]) -> Iterator[None]:
        for pair in pairs:
            self.rate(*pair, RATE / 10)
        try:
            yield
        finally:
            for pair in pairs:
                self.rate(*pair, RATE)

    @contextmanager
    def ordered(self, order: str) -> Iterator[None]:
        """What peers look for; see `sickpeer`."""
        path = self.orders / order
        path.touch()
        try:
            yield
        finally:
            path.unlink()

    @contextmanager
    def starved(self, host: int) -> Iterator[None]:
        """A tenth of a processor."""
        group = CPU / f"collcomm{os.getpid()}"
        group.mkdir()
        try:
            (group / "cpu.cfs_period_us").write_text("20000")
            (group / "cpu.cfs_quota_us").write_text("2000")
            pid = self.peers.processes[host].pid
            for task in os.listdir(f"/proc/{pid}/task"):
                (group / "tasks").write_text(task)
            try:
                yield
            finally:
                with suppress(OSError):  # it may have ended
                    for task in os.listdir(f"/proc/{pid}/task"):
                        (CPU / "tasks").write_text(task)
        finally:
            group.rmdir()

    @contextmanager
    def cut(self, pair: tuple[int, int]) -> Iterator[None]:
        self.lab.cut(*pair)
        try:
            yield
        finally:
            self.lab.mend(pair[0])

    @contextmanager
    def flapping(self, pair: tuple[int, int]) -> Iterator[None]:
        """Two seconds without, three with."""
        stop = threading.Event()

        def flap() -> None:
            while not stop.is_set():
                self.lab.cut(*pair)
                stop.wait(2.0)
                self.lab.mend(pair[0])
                stop.wait(3.0)

        thread = threading.Thread(target=flap, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10.0)
