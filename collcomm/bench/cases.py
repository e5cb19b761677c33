"""The benches: each starts its peers, collects their figures, and returns rows."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..keys import make_keys
from ..laboratory import Network
from ..membership import Coordinator
from .gpu import moved
from .launch import CoordinatorProcess, Peers, free_port
from .measure import Timing, bus_factor, summary
from .workload import numpy_dtype

Row = dict[str, Any]
START_SECONDS = 60.0
SHAPED_PORT = 48148
SHAPED_SECONDS = 300.0
DEFAULT = Timing()


def bench_collective(
    kind: str,
    n: int,
    sizes: Sequence[int],
    timing: Timing = DEFAULT,
    timeout: float = 1200.0,
    transport: str = "tcp",
) -> list[Row]:
    """Times of ``kind`` among ``n`` processes of this machine, with those of each that ``timing`` is against in between: "gloo",
    "mpi" (Open MPI, all_reduce of float32 only), both with arrays in host memory; "tls" for the same group with encrypted
    connections, or "host" for arrays on a GPU that go through host memory. ``transport``: "shm", "tcp" or "cuda_ipc".

    ``sizes``: bytes of the whole array.
    """
    against, dtype = timing.against, timing.dtype
    case: dict[str, Any] = {
        **timing.case(kind, sizes),
        "n": n,
        "transports": [transport],
        "gpu": transport == "cuda_ipc",
        "mpi": "mpi" in against,
        "gloo_port": free_port() if "gloo" in against else 0,
    }
    with contextlib.ExitStack() as stack:
        coordinator = stack.enter_context(Coordinator("127.0.0.1:0"))
        case["address"] = coordinator.address
        if "tls" in against:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys"
            make_keys(folder, ["peer"])
            sealed = stack.enter_context(Coordinator("127.0.0.1:0", keys=folder)).address
            case["rival"] = {
                "name": "tls",
                "options": {"coordinator": sealed, "keys": str(folder), "transports": [transport]},
            }
        if "host" in against:
            beside = {"coordinator": coordinator.address, "group": "host", "transports": ["shm"]}
            case["rival"] = {"name": "host", "options": beside}
        peers = stack.enter_context(Peers())
        for index in range(n):
            peers.start(index, case)
        rows: list[Row] = []
        gpu: Row = {}
        for event in peers.events(timeout):
            if event["event"] == "gpu":
                gpu = event
            if event["event"] == "times":
                row = {**row_of_times(kind, n, event["nbytes"], event["times"]), "dtype": dtype}
                rows.append(_on_gpu(row, gpu) if gpu and kind == "all_reduce" else row)
            if len(rows) == len(sizes):
                break
        peers.wait(START_SECONDS)
        return rows


def _on_gpu(row: Row, gpu: Row) -> Row:
    """With what the memory of the GPU allows, if copies are the measure."""
    count = moved(row["peers"], row["nbytes"], numpy_dtype(row["dtype"]))
    bound = count / gpu["copy_bandwidth"]
    return {**row, "gpu": gpu["gpu"], "moved": count, "bound": bound, "share": bound / row["ours"]["median"]}


def row_of_times(kind: str, n: int, nbytes: int, times: dict[str, list[float]]) -> Row:
    row: Row = {"kind": kind, "peers": n, "nbytes": nbytes}
    for who, values in times.items():
        row[who] = summary(values)
        row[who]["bandwidth"] = nbytes / row[who]["median"]
        row[who]["bus_bandwidth"] = bus_factor(kind, n) * nbytes / row[who]["median"]
    for other in ("gloo", "tls", "mpi", "host"):
        if other in row and "ours" in row:
            row[other]["ratio"] = row[other]["median"] / row["ours"]["median"]
    return row


def bench_failure(n: int, sizes: Sequence[int], runs: int = 20, codec: str | None = None) -> list[Row]:
    """SIGKILL of one of ``n`` peers inside an all_reduce: until noticed, until the others hold the retried result."""
    rows = []
    for nbytes in sizes:
        noticed, held = [], []
        for run in range(runs):
            for event, killed in _kill_one(n, nbytes, run, codec):
                noticed.append(event["noticed"] - killed)
                held.append(event["done"] - killed)
        rows.append(
            {"kind": "failure", "peers": n, "nbytes": nbytes, "noticed": summary(noticed), "held": summary(held)}
        )
    return rows


def _kill_one(n: int, nbytes: int, run: int, codec: str | None) -> list[tuple[Row, float]]:
    with Coordinator("127.0.0.1:0") as coordinator, Peers() as peers:
        case = {"case": "survivor", "n": n, "nbytes": nbytes, "address": coordinator.address, "codec": codec}
        for index in range(n):
            peers.start(index, case)
        events = peers.events(START_SECONDS)
        for _ in range(n):
            next(event for event in events if event["event"] == "running")
        time.sleep(0.1 + 0.0017 * run)  # another instant of the operation each time
        killed = peers.kill(run % n)
        return [(next(e for e in events if e["event"] == "survived"), killed) for _ in range(n - 1)]


def bench_join(n: int, runs: int = 20) -> list[Row]:
    """From join() to the first finished reduction of a newcomer, among ``n`` members that step without pause."""
    seconds = []
    for _ in range(runs):
        with Coordinator("127.0.0.1:0") as coordinator, Peers() as peers:
            case = {"n": n, "address": coordinator.address}
            for index in range(n):
                peers.start(index, {"case": "stepper", **case})
            events = peers.events(START_SECONDS)
            for _ in range(n):
                next(event for event in events if event["event"] == "running")
            peers.start(n, {"case": "joiner", **case})
            seconds.append(next(e for e in events if e["event"] == "joined")["seconds"])
            peers.wait(START_SECONDS)
    return [{"kind": "join", "peers": n, "nbytes": 1024, "joined": summary(seconds)}]


def bench_shaped(n: int, nbytes: int, rate: float = 125e6, runs: int = 5) -> list[Row]:
    """all_reduce among ``n`` network namespaces whose links carry ``rate`` bytes/s each way, as a share of the bound
    2 (n-1)/n * nbytes / rate (payload; Ethernet, IP and TCP headers come out of the rate)."""
    case: dict[str, Any] = {
        "case": "collectives",
        "kind": "all_reduce",
        "n": n,
        "sizes": [nbytes],
        "rounds": 1,
        "repetitions": runs,
        "out_of_place": False,
        "dtype": "float32",
        "transports": None,
    }
    with (
        Network(n, rate) as network,
        CoordinatorProcess(f"{network.hub_address}:{SHAPED_PORT}", network.enter(None)) as coordinator,
        Peers(network.enter) as peers,
    ):
        case["address"] = coordinator.address
        for index in range(n):
            peers.start(index, case)
        event = next(event for event in peers.events(SHAPED_SECONDS) if event["event"] == "times")
        peers.wait(START_SECONDS)
    bound = bus_factor("all_reduce", n) * nbytes / rate
    times = event["times"]["ours"]
    return [
        {
            "kind": "shaped",
            "peers": n,
            "nbytes": nbytes,
            "rate": rate,
            "bound": bound,
            "ours": summary(times),
            "share": bound / statistics.median(times),
        }
    ]


def bench_state(
    n: int, nbytes: int, rate: float = 125e6, together: bool = False, work: float = 0.01, idle: float = 0.02
) -> list[Row]:
    """``nbytes`` of shared state to a newcomer from n - 1 donors, who go on with their steps, over links of ``rate``
    bytes/s: what share of its link the newcomer gets (payload; headers come out of the rate), from its call of
    sync() to the verified end, and how much longer the donors' steps become.

    A step is ``work`` seconds of numpy, ``idle`` seconds of waiting as for an accelerator, and an all_reduce of 4 KiB among
    the donors; with ``together`` the newcomer takes part in that, too.
    """
    case: dict[str, Any] = {"n": n, "nbytes": nbytes, "together": together, "work": work, "idle": idle}
    with (
        Network(n, rate) as network,
        CoordinatorProcess(f"{network.hub_address}:{SHAPED_PORT}", network.enter(None)) as coordinator,
        Peers(network.enter) as peers,
    ):
        case["address"] = coordinator.address
        for index in range(n - 1):
            peers.start(index, {**case, "case": "donor"})
        events = peers.events(SHAPED_SECONDS)
        for _ in range(n - 1):
            next(event for event in events if event["event"] == "running")
        peers.start(n - 1, {**case, "case": "newcomer"})
        ends = [next(e for e in events if e["event"] in ("served", "synced")) for _ in range(n)]
        peers.wait(START_SECONDS)
    came = next(event for event in ends if event["event"] == "synced")
    served = [event for event in ends if event["event"] == "served"]
    slowed = [statistics.median(e["during"]) / statistics.median(e["before"]) for e in served]
    return [
        {
            "kind": "state",
            "peers": n,
            "nbytes": nbytes,
            "rate": rate,
            "together": together,
            "bound": nbytes / rate,
            "ours": summary([came["seconds"]]),
            "share": nbytes / rate / came["seconds"],
            "before": summary([seconds for event in served for seconds in event["before"]]),
            "during": summary([seconds for event in served for seconds in event["during"]]),
            "slowed": statistics.median(slowed),
        }
    ]
