"""`collcomm bench health`: faults put into a running group, one at a time, and what its coordinator says of them."""

from __future__ import annotations

import json
import os
import queue
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..laboratory import Laboratory, asymmetric_ring
from .launch import Peers, child_environment, die_with_parent
from .report import print_table

PORT = 48148
HOSTS = 8
RATE = 12.5e6  # bytes/s of each link
NBYTES = 512 << 10
COMPUTE_SECONDS = 0.01
WARM_SECONDS = 25.0
FIND_SECONDS = 30.0
REST_SECONDS = 12.0  # after a fault, for findings to end
CPU = Path("/sys/fs/cgroup/cpu")
Row = dict[str, Any]


class Ward:
    """A group of `HOSTS` peers in a laboratory, and its coordinator. ``members``: ids by host."""

    def __init__(self, lab: Laboratory, orders: str):
        self.lab = lab
        self.orders = Path(orders)
        self.address = f"{lab.hub_address}:{PORT}"
        self.heard: queue.Queue[Row] = queue.Queue()
        command = [*lab.enter(None), sys.executable, "-m", "collcomm.bench.sickpeer", self.address]
        self._coordinator = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent, env=child_environment()
        )
        threading.Thread(target=self._read, daemon=True).start()
        self.wait(lambda event: event["event"] == "listens", 30.0)
        self.peers = Peers(lab.enter)
        self.peers.__enter__()
        case = {"case": "sick_peer", "address": self.address, "n": HOSTS, "orders": orders}
        case |= {"nbytes": NBYTES, "compute": COMPUTE_SECONDS}
        for index in range(HOSTS):
            self.peers.start(index, {**case, "index": index})
        self.members: dict[int, int] = {}
        for event in self.peers.events(90.0):
            if event["event"] == "joined":
                self.members[event["peer"]] = event["member"]
            if len(self.members) == HOSTS:
                break

    def _read(self) -> None:
        assert self._coordinator.stdout is not None
        for line in self._coordinator.stdout:
            if line.startswith("{"):
                self.heard.put(json.loads(line))

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

    def close(self) -> None:
        (self.orders / "end").touch()
        time.sleep(2.0)
        self.peers.__exit__(None, None, None)
        self._coordinator.terminate()
        self._coordinator.wait(10.0)

    # -- faults -------------------------------------------------------------------------------------------------------

    def rate(self, source: int, target: int, rate: float) -> None:
        """Of the link from one host to another."""
        number = 16 + [other for other in range(HOSTS) if other != source].index(target)
        shape = ["rate", f"{rate * 8:.0f}bit", "burst", "64k", "cburst", "64k"]
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
    def stalled(self, host: int) -> Iterator[None]:
        order = self.orders / f"stall-{host}"
        order.touch()
        try:
            yield
        finally:
            order.unlink()

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


def faults(ward: Ward, chance: random.Random) -> dict[str, tuple[Any, str, str, list[int], bool]]:
    """By name: how to make it, and syndrome, culprit and hosts that are to be named; whether their order counts."""
    host = chance.randrange(HOSTS)
    source, target = chance.sample(range(HOSTS), 2)
    others = [one for one in range(HOSTS) if one != host]
    return {
        "stopped before launch": (ward.stalled(host), "non-communication hang", "rank", [host], True),
        "blackholed link": (ward.cut((source, target)), "communication hang", "link", [source, target], False),
        "link at a tenth": (ward.slowed([(source, target)]), "communication slow", "link", [source, target], True),
        "slow egress": (ward.slowed([(host, o) for o in others]), "communication slow", "sender", [host], True),
        "slow ingress": (ward.slowed([(o, host) for o in others]), "communication slow", "receiver", [host], True),
        "starved of processor": (ward.starved(host), "non-communication slow", "rank", [host], True),
        "flapping link": (ward.flapping((source, target)), "communication hang", "link", [source, target], False),
    }


def bench_health(rounds: int = 3, only: tuple[str, ...] = (), seed: int = 1) -> list[Row]:
    """Each fault so many times in a row, in one running group; first a minute without any."""
    chance = random.Random(seed)
    rates = [[RATE] * HOSTS for _ in range(HOSTS)]
    rows: list[Row] = []
    with asymmetric_ring(rates) as lab, tempfile.TemporaryDirectory() as orders:
        ward = Ward(lab, orders)
        try:
            ward.rest(WARM_SECONDS)
            clean = ward.rest(30.0)
            rows.append({"fault": "none", "runs": 1, "false": len(clean), "said": [one["evidence"] for one in clean]})
            for name in only or tuple(faults(ward, chance)):
                rows.append(_repeat(ward, name, rounds, chance))
        finally:
            ward.close()
    return rows


def run_health(rounds: int) -> list[Row]:
    rows = bench_health(rounds)
    cells = [
        {
            "fault": row["fault"],
            "runs": str(row["runs"]),
            "exact": str(row.get("exact", "")),
            "found after": "" if row.get("seconds") is None else f"{row['seconds']:.1f} s",
            "at most": "" if row.get("longest") is None else f"{row['longest']:.1f} s",
            "else": "; ".join(map(str, row.get("wrong") or row.get("said") or [])),
        }
        for row in rows
    ]
    print_table("collcomm bench health", cells)
    return rows


def _repeat(ward: Ward, name: str, rounds: int, chance: random.Random) -> Row:
    exact, seconds, wrong = 0, [], []
    for _ in range(rounds):
        make, syndrome, kind, hosts, ordered = faults(ward, chance)[name]
        wanted = [ward.members[host] for host in hosts]
        ward.rest(0.1)
        began = time.monotonic()
        with make:
            found = ward.wait(lambda event: event["event"] == "finding", FIND_SECONDS)
        if found is not None and _is(found, syndrome, kind, wanted, ordered):
            exact += 1
            seconds.append(found["at"] - began)
        else:
            wrong.append(None if found is None else (found["syndrome"], found["culprit"], found["members"], wanted))
        ward.rest(REST_SECONDS)
    median = statistics.median(seconds) if seconds else None
    return {
        "fault": name,
        "runs": rounds,
        "exact": exact,
        "seconds": median,
        "longest": max(seconds, default=None),
        "wrong": wrong,
    }


def _is(found: Row, syndrome: str, kind: str, wanted: list[int], ordered: bool) -> bool:
    members = found["members"] if ordered else sorted(found["members"])
    return (found["syndrome"], found["culprit"], members) == (syndrome, kind, wanted if ordered else sorted(wanted))
