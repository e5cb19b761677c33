"""One peer in a host of the network tests: runs the task that its case names and prints JSON lines."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import numpy as np
from collcomm.transports.base import COLLECTIVES, PROBES

import collcomm
from tests.support.contract import CONTRACT, equal, kinds

JOIN_SECONDS = 30.0
PLAN_SECONDS = 45.0  # for links to be measured and a plan to be fitted, on a busy machine
BY_PLAN = (
    "kinds",
    "reductions",
    "bits",
    "uneven",
    "lists",
    "reverse_order",
    "asynchronous",
)  # on slow links, so not all
LARGE = 12 << 16  # elements: 3 MiB of float32, far more than the sockets' buffers hold


def emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def join(case: dict[str, Any]) -> collcomm.Communicator:
    emit(event="joins")
    comm = collcomm.join(
        case["address"],
        name=f"host-{case['index']}",
        min_size=case["n"],
        timeout=JOIN_SECONDS,
        op_timeout=60.0,
        reachable=case.get("reachable"),
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


def reach_all(case: dict[str, Any]) -> None:
    """Large and small reductions, a message from everybody to everybody, and how each link came about."""
    with join(case) as comm:
        began = time.monotonic()
        for size in (10, LARGE):
            equal(comm.all_reduce(np.ones(size, np.float32)), np.full(size, comm.size, np.float32))
        for distance in range(1, comm.size):
            target, source = (comm.rank + distance) % comm.size, (comm.rank - distance) % comm.size
            sent = comm.send(np.full(LARGE, comm.rank, np.int32), target, async_op=True)
            equal(comm.recv(np.empty(LARGE, np.int32), source), np.full(LARGE, source, np.int32))
            sent.wait()
        transport, names = comm._session.transport, {member.id: member.name for member in comm.view.members}
        ways = {name: transport.route_of(member) for member, name in names.items() if name != comm.name}
        ways = {name: way if isinstance(way, str) else f"via {names[way[1]]}" for name, way in ways.items()}
        emit(event="reached", ways=ways, epoch=comm.view.epoch, seconds=time.monotonic() - began)
        comm.barrier()


def probed(case: dict[str, Any]) -> None:
    """Waits until the links of this peer have been probed; tells what it found, and what of that is left when it has left."""
    comm = join(case)
    prober = comm._session.prober
    acts_for, answers = comm.rank, comm.size - 1 - comm.rank  # the later one of two acts
    deadline = time.monotonic() + JOIN_SECONDS
    while prober.asked < acts_for or prober.answered < answers or not prober.survey_seconds:
        if time.monotonic() > deadline:
            raise TimeoutError(f"asked {prober.asked} of {acts_for}, answered {prober.answered} of {answers}")
        time.sleep(0.01)
    rows = [[row.source, row.target, row.latency, row.bandwidth, row.streams] for row in prober.rows()]
    comm.barrier()
    comm.leave()
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("collcomm")]
    links = len(comm._session.transport.open_links(PROBES))
    emit(event="probed", rows=rows, seconds=prober.survey_seconds, threads=threads, links=links)


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


def planned(case: dict[str, Any]) -> None:
    """Waits for a plan; then does much of what a communicator owes its callers, or with ``lasts`` reduces until killed."""
    comm = join(case)
    prober = comm._session.prober
    deadline = time.monotonic() + PLAN_SECONDS
    links = 2 * (comm.size - 1)
    while len(prober.rows()) < links and time.monotonic() < deadline:  # operations would slow the probes down
        time.sleep(0.05)
    revision, since = 0, time.monotonic()
    while True:  # the last links are measured, reported and planned within some seconds
        time.sleep(1.5)  # so that links are idle between two steps
        plan = comm.step().plan
        if plan is not None and plan.revision != revision:
            revision, since = plan.revision, time.monotonic()
        settled = revision > 0 and (time.monotonic() - since > 4.0 or time.monotonic() > deadline)
        if comm.all_reduce(np.array([settled], np.uint8), op="min")[0]:
            break
    tell_plan(comm, "planned")
    while case.get("lasts"):
        equal(comm.all_reduce(np.ones(LARGE, np.float32)), np.full(LARGE, comm.size, np.float32))
        comm.step()
        tell_plan(comm, "result")
    for check in BY_PLAN:
        CONTRACT[check](comm)
    comm.barrier()
    emit(event="done")
    comm.leave()


def tell_plan(comm: collcomm.Communicator, event: str) -> None:
    """The plan as this member applies it: names round the ring, and their sites."""
    strategy = comm._group.choosing.strategy(comm.view)
    names = [comm.view[rank].name for rank in strategy.order]
    sites = [strategy.sites[rank] for rank in strategy.order]
    revision = comm.view.plan.revision if comm.view.plan else 0
    emit(event=event, order=names, sites=sites, revision=revision, explained=str(comm.explain("all_reduce", 1 << 20)))


TASKS = {
    "planned": planned,
    "every_collective": every_collective,
    "probed": probed,
    "reach_all": reach_all,
    "reduce_on": reduce_on,
    "stripe_on": stripe_on,
}


def main() -> None:
    case = json.loads(sys.argv[1])
    try:
        TASKS[case["task"]](case)
    except Exception as error:
        emit(event="error", at=time.monotonic(), kind=type(error).__name__, text=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
