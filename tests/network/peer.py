"""One peer in a host of the network tests: runs the task that its case names and prints JSON lines."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from collcomm.transports.base import COLLECTIVES

import collcomm
from tests.support.contract import CONTRACT, equal, kinds

JOIN_SECONDS = 30.0
LARGE = 12 << 16  # elements: 3 MiB of float32, far more than the sockets' buffers hold


def emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def join(case: dict[str, Any]) -> collcomm.Communicator:
    comm = collcomm.join(
        case["address"],
        name=f"host-{case['index']}",
        min_size=case["n"],
        timeout=JOIN_SECONDS,
        op_timeout=60.0,
        streams=case.get("streams", 1),
    )
    hosts = {member.name: member.host for member in comm.view.members}
    emit(event="joined", rank=comm.rank, size=comm.size, hosts=hosts)
    return comm


def every_collective(case: dict[str, Any]) -> None:
    """All that a communicator owes its callers; the large blocks again, which go through other schedules than small ones."""
    with join(case) as comm:
        for check in CONTRACT.values():
            check(comm)
        kinds(comm, sizes=(LARGE // comm.size,), width=1)
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
        equal(result, np.full(x.size, comm.size, np.float32))


def stripe_on(case: dict[str, Any]) -> None:
    """Reduces until killed, over links of several streams: tells the ports by which each connection is known, and of each tenth
    result its view, and which streams have died."""
    comm = join(case)
    x = np.ones(LARGE, np.float32)
    number = 0
    while True:
        number += 1
        result = comm.all_reduce(x)
        equal(result, np.full(x.size, comm.size, np.float32))
        if number % 10 == 0:
            (link,) = [link for key, link in comm._session.transport._links.items() if key[1] == COLLECTIVES]
            living = [stream for stream in link.streams if not stream.retired]
            ends = [(stream.socket.getsockname()[1], stream.socket.getpeername()[1]) for stream in living]
            emit(event="result", at=time.monotonic(), epoch=comm.view.epoch, round=number, ends=ends)


TASKS = {"stripe_on": stripe_on, "every_collective": every_collective, "reduce_on": reduce_on}


def main() -> None:
    case = json.loads(sys.argv[1])
    try:
        TASKS[case["task"]](case)
    except Exception as error:
        emit(event="error", at=time.monotonic(), kind=type(error).__name__, text=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
