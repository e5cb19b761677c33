"""How much of the communication hides behind the computation, primitive by primitive, over links on which communication takes as
long as computation: (serial - overlapped) / min(computation, communication), medians of alternating turns; results compared."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np

import collcomm

from ..laboratory import Network
from ..overlap import combine_before, weave
from .launch import CoordinatorProcess, Peers
from .measure import alternate, format_seconds, format_size, slowest
from .overlapbuckets import NBYTES as LARGE_BYTES
from .overlapbuckets import URGENT_BYTES, bucketed, urgent
from .overlaprings import RINGS
from .report import print_table

PORT = 48149
PEERS = 2
RING_PEERS = 6
RATE = 12.5e6  # bytes/s each way: one of two cores' worth of computation is left for the wire
NBYTES = 4 << 20
PARTS = 16
RUN_SECONDS = 600.0
JOIN_SECONDS = 60.0
Row = dict[str, Any]
Array = np.ndarray[Any, Any]


def run_overlap(options: argparse.Namespace) -> list[Row]:
    """The rows, which are printed. Needs root."""
    rows = bench_overlap(options.rounds)
    *rest, wanted = rows
    cells = [
        {
            "primitive": row["primitive"],
            "computation": format_seconds(row["computation"]),
            "communication": format_seconds(row["communication"]),
            "one after the other": format_seconds(row["serial"]),
            "overlapped": format_seconds(row["overlapped"]),
            "hidden": f"{row['efficiency']:.0%}",
            "of the bound": f"{row['of_bound']:.0%}",
        }
        for row in rest
    ]
    print_table("collcomm bench overlap", cells)
    what = f"{format_size(URGENT_BYTES)}, while {format_size(LARGE_BYTES)} are on their way"
    times = {way: format_seconds(wanted[way]) for way in ("in order", "by priority")}
    print_table("what is urgent is there after", [{"urgent": what, **times}])
    return rows


def bench_overlap(rounds: int = 5) -> list[Row]:
    """Between two hosts with links of `RATE`, and round a ring of more. The last row is of what is urgent."""
    *rows, wanted = _bench(PEERS, [*PRIMITIVES, URGENT], rounds)
    return [*rows, *_bench(RING_PEERS, list(RINGS), rounds), wanted]


def _bench(n: int, primitives: list[str], rounds: int) -> list[Row]:
    with Network(n, RATE) as network:
        at = f"{network.hub_address}:{PORT}"
        with CoordinatorProcess(at, network.enter(None)) as coordinator, Peers(network.enter) as peers:
            case = {"case": "overlap_peer", "address": coordinator.address, "n": n, "rounds": rounds}
            for index in range(n):
                peers.start(index, {**case, "primitives": primitives})
            return [_row(event) for event in peers.times(len(primitives), RUN_SECONDS)]


def _row(event: Row) -> Row:
    times = {who: statistics.median(found) for who, found in event["times"].items()}
    row = {"primitive": event["primitive"], **times}
    if event["primitive"] == URGENT:
        return row
    parts = times["computation"], times["communication"]
    saved = times["serial"] - times["overlapped"]
    return {**row, "efficiency": saved / min(parts), "of_bound": max(parts) / times["overlapped"]}


class Work:
    """Computation that takes about so many seconds in all, in pieces. It lasts by the clock, as that of a GPU would: what the
    engine needs of this machine's few processors is not taken from it."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def part(self, share: float) -> None:
        time.sleep(self.seconds * share)


Ways = dict[str, Callable[[], Any]]


def triggered(comm: collcomm.Communicator, work: Work) -> Ways:
    x = np.ones(NBYTES // 4, np.float32)

    def fill() -> None:
        x[:] = comm.rank + 1

    def serial() -> Array:
        fill()
        work.part(1.0)
        comm.all_reduce(x, out=x)
        return x

    def overlapped() -> Array:
        fill()
        going = comm.triggered_all_reduce(x, chunks=PARTS)
        for chunk in range(PARTS):
            work.part(1 / PARTS)
            going.ready(chunk)
        going.result()
        return x

    return {
        "computation": lambda: work.part(1.0),
        "communication": lambda: comm.all_reduce(x, out=x),
        "serial": serial,
        "overlapped": overlapped,
    }


def woven(comm: collcomm.Communicator, work: Work) -> Ways:
    """Four blocks, each of a computation and an all_reduce."""
    layers = 4
    batch = np.ones((2, NBYTES // 8 // layers), np.float32)

    def block(x: Array) -> Generator[Any, Any, Array]:
        for _ in range(layers):
            work.part(len(x) / len(batch) / layers)
            x = yield comm.all_reduce(x, op="avg", async_op=True)
        return x

    def serial() -> Array:
        x = batch
        for _ in range(layers):
            work.part(1 / layers)
            x = comm.all_reduce(x, op="avg")
        return x

    def communication() -> None:
        for _ in range(layers):
            comm.all_reduce(batch, op="avg")

    return {
        "computation": lambda: work.part(1.0),
        "communication": communication,
        "serial": serial,
        "overlapped": lambda: weave(block, batch),
    }


def prefix(comm: collcomm.Communicator, work: Work) -> Ways:
    state = np.full((1, NBYTES // 4), float(comm.rank + 1), np.float32)

    def overlapped() -> Array:
        gathered = comm.all_gather(state, async_op=True)
        work.part(1.0)
        return combine_before(gathered.result(), comm.rank)

    def serial() -> Array:
        gathered = comm.all_gather(state)
        work.part(1.0)
        return combine_before(gathered, comm.rank)

    return {
        "computation": lambda: work.part(1.0),
        "communication": lambda: comm.all_gather(state),
        "serial": serial,
        "overlapped": overlapped,
    }


def fused(comm: collcomm.Communicator, work: Work) -> Ways:
    """As `woven`, with a norm of the rows after each all_reduce."""
    layers = 4
    batch = np.random.default_rng(0).standard_normal((2 * 64, NBYTES // 4 // 128 // layers)).astype(np.float32)

    def norm(rows: Array, start: int) -> Array:
        return rows / np.sqrt(np.square(rows).mean(1, keepdims=True) + np.float32(1e-6))

    def block(x: Array) -> Generator[Any, Any, Array]:
        for _ in range(layers):
            work.part(len(x) / len(batch) / layers)
            x = yield comm.fused_all_reduce(x, norm, async_op=True)
        return x

    def serial() -> Array:
        x = batch
        for _ in range(layers):
            work.part(1 / layers)
            x = comm.fused_all_reduce(x, norm)
        return x

    def communication() -> None:
        for _ in range(layers):
            comm.fused_all_reduce(batch, norm)

    return {
        "computation": lambda: work.part(1.0),
        "communication": communication,
        "serial": serial,
        "overlapped": lambda: weave(block, batch),
    }


PRIMITIVES: dict[str, Callable[[collcomm.Communicator, Work], Ways]] = {
    "triggered all_reduce": triggered,
    "woven halves": woven,
    "woven halves, fused norm": fused,
    "prefix of states": prefix,
    "a step with buckets": bucketed,
}
URGENT = "urgent"


def overlap_peer(case: Row, emit: Callable[..., None]) -> None:
    """One process of the bench. Raises AssertionError where overlapping changes a result."""
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS, probe=False)
    for name in case["primitives"]:
        if name == URGENT:
            times = alternate(urgent(comm), case["rounds"], comm.barrier)
            if comm.rank == 0:
                emit(event="times", primitive=name, times=times)
            continue
        make = {**PRIMITIVES, **RINGS}[name]
        communication = make(comm, Work(0.0))["communication"]
        communication()
        seconds = slowest(comm, _timed(communication)[0])
        ways = make(comm, Work(seconds))
        assert (np.array(ways["serial"]()) == np.array(ways["overlapped"]())).all(), f"{name}: another result"
        blocks = {who: _block(comm, call) for who, call in ways.items()}
        times = alternate(blocks, case["rounds"], comm.barrier)
        if comm.rank == 0:
            emit(event="times", primitive=name, times=times)
    comm.leave()


def _block(comm: collcomm.Communicator, call: Callable[[], Any]) -> Callable[[], list[float]]:
    def run() -> list[float]:
        comm.barrier()
        return _timed(call)

    return run


def _timed(call: Callable[[], Any]) -> list[float]:
    began = time.perf_counter()
    call()
    return [time.perf_counter() - began]
