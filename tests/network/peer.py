"""One peer in a host of the network tests: runs the task that its case names and prints JSON lines."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

import collcomm

JOIN_SECONDS = 30.0
LARGE = 12 << 16  # elements: 3 MiB of float32, far more than the sockets' buffers hold


def emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def join(case: dict[str, Any]) -> collcomm.Communicator:
    comm = collcomm.join(
        case["address"], name=f"host-{case['index']}", min_size=case["n"], timeout=JOIN_SECONDS, op_timeout=60.0
    )
    hosts = {member.name: member.host for member in comm.view.members}
    emit(event="joined", rank=comm.rank, size=comm.size, hosts=hosts)
    return comm


def equal(what: str, got: Any, expected: Any) -> None:
    if not np.array_equal(got, expected):
        raise AssertionError(f"{what}: {got} instead of {expected}")


def every_collective(case: dict[str, Any]) -> None:
    """Each collective once, with a small and a large array, checked against what numpy says."""
    with join(case) as comm:
        n, rank = comm.size, comm.rank
        for block in (3, LARGE // n):
            everybody = [np.arange(n * block, dtype=np.float32) + 1000 * other for other in range(n)]
            x, total = everybody[rank], np.sum(everybody, axis=0)
            mine = slice(rank * block, (rank + 1) * block)
            equal("all_reduce", comm.all_reduce(x), total)
            equal("reduce_scatter", comm.reduce_scatter(x), total[mine])
            equal("all_gather", comm.all_gather(x), np.concatenate(everybody))
            equal("all_to_all", comm.all_to_all(x), np.concatenate([other[mine] for other in everybody]))
            equal("broadcast", comm.broadcast(x, root=1), everybody[1])
            for root in range(n):
                reduced, gathered = comm.reduce(x, root=root), comm.gather(x, root=root)
                if rank == root:
                    equal("reduce", reduced, total)
                    equal("gather", gathered, np.concatenate(everybody))
                scattered = comm.scatter(x if rank == root else None, root=root, out=np.empty(block, np.float32))
                equal("scatter", scattered, everybody[root][mine])
            if rank % 2 == 0 and rank + 1 < n:
                comm.send(x, dst=rank + 1, tag=7)
            elif rank % 2:
                equal("recv", comm.recv(np.empty_like(x), src=rank - 1, tag=7), everybody[rank - 1])
        if comm.all_gather_object({"rank": rank}) != [{"rank": other} for other in range(n)]:
            raise AssertionError("all_gather_object")
        if comm.broadcast_object(["word", 7] if rank == n - 1 else None, root=n - 1) != ["word", 7]:
            raise AssertionError("broadcast_object")
        comm.barrier()
        emit(event="done", sent=comm.stats()["bytes_sent"])


def reduce_on(case: dict[str, Any]) -> None:
    """Reduces until killed: tells each result's view, and stops with the reason when this peer is thrown out."""
    comm = join(case)
    x = np.ones(case.get("elements", LARGE), np.float32)
    members = [member.name for member in comm.view.members]
    emit(event="result", at=time.monotonic(), members=members, epoch=comm.view.epoch, round=0)
    said, number = comm.view.epoch, 0
    while True:
        number += 1
        result = comm.all_reduce(x)
        if comm.view.epoch != said or number % 10 == 0:
            said = comm.view.epoch
            members = [member.name for member in comm.view.members]
            emit(event="result", at=time.monotonic(), members=members, epoch=said, round=number)
        equal("all_reduce", result, np.full(x.size, comm.size, np.float32))


TASKS = {"every_collective": every_collective, "reduce_on": reduce_on}


def main() -> None:
    case = json.loads(sys.argv[1])
    try:
        TASKS[case["task"]](case)
    except Exception as error:
        emit(event="error", at=time.monotonic(), kind=type(error).__name__, text=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
