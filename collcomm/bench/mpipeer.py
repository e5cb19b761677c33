"""One rank of an MPI bench. Run as ``mpirun -n N python -m collcomm.bench.mpipeer CASE`` (see `mpilaunch`).

CASE is JSON. {"case": "collectives", "kind", "sizes", "rounds", "dtype", "out_of_place", "block", "ours": true, "raw": true}
times our collectives and raw mpi4py in alternating blocks; with "ours" false, raw mpi4py alone, without joining a group.
{"case": "failure", "nbytes", "victim", "after"} measures a death.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

import collcomm

from .launch import die_with_parent
from .mpilaunch import emit
from .peer import MAX_REPETITIONS, WARM_UP
from .workload import Call, length, numpy_dtype, our_call

JOIN_SECONDS = 60.0


def raw_call(comm: Any, kind: str, nbytes: int, dtype: str, out_of_place: bool) -> Call:
    """The collective of mpi4py as its documentation shows it."""
    from mpi4py import MPI

    n = comm.Get_size()
    whole = length(kind, nbytes, numpy_dtype(dtype).itemsize, n)
    x = np.full(whole, 0, numpy_dtype(dtype))  # np.zeros would be one page, as long as nobody writes it
    y = np.full(whole // n if kind == "reduce_scatter" else whole, 0, numpy_dtype(dtype))
    part = x[: whole // n]
    calls: dict[str, Call] = {
        "all_reduce": lambda: comm.Allreduce(x, y),
        "all_gather": lambda: comm.Allgather(part, y),
        "reduce_scatter": lambda: comm.Reduce_scatter_block(x, y),
        "all_to_all": lambda: comm.Alltoall(x, y),
        "broadcast": lambda: comm.Bcast(y, 0),
    }
    if kind == "all_reduce" and not out_of_place:
        return lambda: comm.Allreduce(MPI.IN_PLACE, x)
    return calls[kind]


def collectives(case: dict[str, Any]) -> None:
    from mpi4py import MPI

    world = MPI.COMM_WORLD.Dup()
    comm = collcomm.join(timeout=JOIN_SECONDS, transports=["mpi"]) if case.get("ours", True) else None
    for nbytes in case["sizes"]:
        calls: dict[str, Call] = {}
        if comm is not None:
            calls["ours"] = our_call(comm, case["kind"], nbytes, case["dtype"], case["out_of_place"])
        if case.get("raw", True):
            calls["mpi"] = raw_call(world, case["kind"], nbytes, case["dtype"], case["out_of_place"])
        counts = {who: _repetitions(world, call, case["block"]) for who, call in calls.items()}
        times: dict[str, list[float]] = {who: [] for who in calls}
        gc.collect()
        gc.disable()
        for _ in range(case["rounds"]):
            for who, call in calls.items():
                world.Barrier()
                times[who] += _block(call, counts[who])
        gc.enable()
        if world.Get_rank() == 0:
            emit(event="times", nbytes=nbytes, times=times)
    if comm is not None:
        comm.leave()


def _block(call: Call, count: int) -> list[float]:
    times = []
    for _ in range(WARM_UP):
        call()
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def _repetitions(world: Any, call: Call, seconds: float) -> int:
    from mpi4py import MPI

    took = sorted(_block(call, 2 * WARM_UP + 1))[WARM_UP]
    slowest = world.allreduce(took, MPI.MAX)
    return int(min(MAX_REPETITIONS, max(2, seconds / slowest)))


def failure(case: dict[str, Any]) -> None:
    """Reduces without pause; the victim dies ``after`` seconds; the others tell when they noticed, and when they held the
    retried result."""
    comm = collcomm.join(timeout=JOIN_SECONDS, transports=["mpi"])
    n, rank = comm.size, comm.rank
    x = np.ones(max(1, case["nbytes"] // 4), np.float32)
    out = np.empty_like(x)
    for _ in range(5):
        comm.all_reduce(x, out=out)
    if rank == case["victim"]:
        threading.Timer(case["after"], _die).start()
    while comm.size == n:
        comm.all_reduce(x, out=out)
    done = time.monotonic()
    if not (out == comm.size).all():
        raise AssertionError("the retried result is wrong")
    emit(event="survived", rank=rank, done=done, noticed=done - comm.stats()["seconds_lost"])
    comm.leave()


def _die() -> None:
    emit(event="killed", at=time.monotonic())
    os.kill(os.getpid(), signal.SIGKILL)


CASES = {"collectives": collectives, "failure": failure}


def main() -> None:
    die_with_parent()
    case = json.loads(sys.argv[1])
    CASES[case["case"]](case)


if __name__ == "__main__":
    main()
