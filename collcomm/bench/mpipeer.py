"""One rank of an MPI bench. Run as ``mpirun -n N python -m collcomm.bench.mpipeer CASE`` (see `mpilaunch`).

CASE is JSON. {"case": "collectives", "kind", "sizes", "rounds", "dtype", "out_of_place", "block", "raw"}
times our collectives and, with "raw" true, raw mpi4py in alternating blocks.
{"case": "failure", "nbytes", "victim", "after"} measures a death. {"case": "reference"}: see `mpireference`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from functools import partial
from typing import Any

import numpy as np

import collcomm

from .launch import die_with_parent
from .measure import alternate, repetitions, timed
from .mpilaunch import emit
from .mpireference import serve
from .workload import Call, our_call, raw_call

JOIN_SECONDS = 60.0


def collectives(case: dict[str, Any]) -> None:
    from mpi4py import MPI

    world = MPI.COMM_WORLD.Dup()

    def slowest(took: float) -> float:
        longest: float = world.allreduce(took, MPI.MAX)
        return longest

    comm = collcomm.join(timeout=JOIN_SECONDS, transports=["mpi"])
    for nbytes in case["sizes"]:
        calls: dict[str, Call] = {"ours": our_call(comm, case["kind"], nbytes, case["dtype"], case["out_of_place"])}
        if case["raw"]:
            calls["mpi"] = raw_call(world, case["kind"], nbytes, case["dtype"], case["out_of_place"])
        counts = {who: repetitions(call, case["block"], slowest) for who, call in calls.items()}
        blocks = {who: partial(timed, call, counts[who]) for who, call in calls.items()}
        times = alternate(blocks, case["rounds"], world.Barrier)
        if world.Get_rank() == 0:
            emit(event="times", nbytes=nbytes, times=times)
    comm.leave()


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


CASES = {"collectives": collectives, "failure": failure, "reference": serve}


def main() -> None:
    die_with_parent()
    case = json.loads(sys.argv[1])
    CASES[case["case"]](case)


if __name__ == "__main__":
    main()
