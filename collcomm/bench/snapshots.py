"""What a snapshot at each step costs the steps, with the shard sent to a buddy over a link on which that takes a good part of a
step: (step with - step without) / step without, medians of alternating turns. What comes back from the buddy is compared."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import collcomm

from ..laboratory import Network
from ..snapshots import Snapshots
from .launch import CoordinatorProcess, Peers
from .measure import alternate, format_seconds, slowest
from .report import print_table

PORT = 48150
PEERS = 2
RATE = 12.5e6  # bytes/s each way
NBYTES = 2 << 20  # of a shard
GRADIENT_BYTES = 64 << 10  # reduced in each step, over the same link
STEPS = 5  # in a turn
SHARES = (0.5, 0.8)  # of a step's computation that a shard is on its way
NUMBERS = 1 << 14  # whose tanh is computed over and over, in cache
WARM_UP_SECONDS = 0.3
RUN_SECONDS = 900.0
JOIN_SECONDS = 60.0
SNAPSHOT_SECONDS = 60.0
Row = dict[str, Any]


def run_snapshots(options: argparse.Namespace) -> list[Row]:
    """The rows, which are printed. Needs root."""
    rows = bench_snapshots(options.rounds)
    cells = [
        {
            "computation": row["computation"],
            "transfer / step": f"{row['transfer'] / row['none']:.0%}",
            "transfer": format_seconds(row["transfer"]),
            "no snapshots": format_seconds(row["none"]),
            **{f"copied {way}": f"{row[way] / row['none'] - 1:+.1%}" for way in ("now", "later")},
            "waited for": f"{row['waited for'] / row['none'] - 1:+.1%}",
        }
        for row in rows
    ]
    print_table("collcomm bench snapshots", cells)
    return rows


def bench_snapshots(rounds: int = 5) -> list[Row]:
    """Between two hosts with links of `RATE`."""
    with Network(PEERS, RATE) as network:
        at = f"{network.hub_address}:{PORT}"
        with CoordinatorProcess(at, network.enter(None)) as coordinator, Peers(network.enter) as peers:
            for index in range(PEERS):
                case = {"case": "snapshot_peer", "address": coordinator.address, "n": PEERS, "rounds": rounds}
                peers.start(index, case)
            return [_row(event) for event in peers.times(len(WORKS) * len(SHARES), RUN_SECONDS)]


def _row(event: Row) -> Row:
    times = {way: statistics.median(found) for way, found in event["times"].items()}
    return {**{name: event[name] for name in ("computation", "share", "transfer")}, **times}


def _elsewhere(comm: collcomm.Communicator, seconds: float) -> Callable[[], None]:
    """Computation that lasts by the clock, as that of a GPU would."""
    return partial(time.sleep, seconds)


def _here(comm: collcomm.Communicator, seconds: float) -> Callable[[], None]:
    """Computation on this machine's processors: as much as takes so many seconds without communication."""
    numbers = np.linspace(0, 1, NUMBERS, dtype=np.float32)
    out = np.empty_like(numbers)

    def compute(times: int) -> None:
        for _ in range(times):
            np.tanh(numbers, out=out)

    times, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < WARM_UP_SECONDS:
        compute(1)
        times += 1
    return partial(compute, max(1, round(seconds / slowest(comm, took / times))))


WORKS = {"elsewhere": _elsewhere, "on these processors": _here}


class _Training:
    """Steps of a snapshot, a computation, a reduction and an update."""

    def __init__(self, comm: collcomm.Communicator, work: Callable[[], None]):
        self._comm, self._work = comm, work
        self._gradient = np.ones(GRADIENT_BYTES // 4, np.float32)
        self.shard = {"w": np.zeros(NBYTES // 4, np.float32)}
        self.steps = 0  # all numbers of the shard are that

    def turn(self, snapshots: Snapshots | None, waits: bool = False) -> list[float]:
        """Seconds of each of `STEPS` steps; what is on its way at the end is waited for, and not counted."""
        times = []
        self._comm.barrier()
        for _ in range(STEPS):
            began = time.perf_counter()
            if snapshots is not None:
                snapshots.take(self.steps, self.shard)
                if waits:
                    snapshots.finish()
            self._work()
            self._comm.all_reduce(self._gradient, "max", self._gradient)
            if snapshots is not None:
                snapshots.wait()
            self.shard["w"] += 1
            self.steps += 1
            times.append(time.perf_counter() - began)
        if snapshots is not None:
            snapshots.finish()
        return times


def snapshot_peer(case: Row, emit: Callable[..., None]) -> None:
    """One process of the bench. Raises AssertionError where a shard does not come back as it was."""
    with (
        collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS, probe=False) as comm,
        Snapshots(comm, "now", SNAPSHOT_SECONDS) as now,
        Snapshots(comm, "later", SNAPSHOT_SECONDS) as later,
    ):
        now.recover()
        later.recover()
        transfer = _transfer(comm, now)
        for computation, make in WORKS.items():
            for share in SHARES:
                comm.barrier()
                training = _Training(comm, make(comm, transfer / share))
                turns = {
                    "none": partial(training.turn, None),
                    "now": partial(training.turn, now),
                    "later": partial(training.turn, later),
                    "waited for": partial(training.turn, now, True),
                }
                times = alternate(turns, case["rounds"], comm.barrier)
                if comm.rank == 0:
                    emit(event="times", computation=computation, share=share, transfer=transfer, times=times)
        for snapshots in (now, later):
            _check(comm, snapshots)
        comm.barrier()


def _transfer(comm: collcomm.Communicator, snapshots: Snapshots) -> float:
    """Seconds from `take` until a snapshot is whole at both."""
    shard = {"w": np.zeros(NBYTES // 4, np.float32)}
    times = []
    for step in range(3):
        comm.barrier()
        began = time.perf_counter()
        snapshots.take(step, shard)
        snapshots.finish()
        times.append(time.perf_counter() - began)
    return slowest(comm, statistics.median(times))


def _check(comm: collcomm.Communicator, snapshots: Snapshots) -> None:
    """Each hands its shard to the other."""
    one, other = (member.name for member in comm.view.members)
    found = snapshots.recover()
    for shard in snapshots.take_over({one: other, other: one}).values():
        assert shard.step == found.step and (shard.arrays["w"] == found.step).all(), "another shard came back"
