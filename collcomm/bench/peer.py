"""One process of a bench: does what its case says, prints JSON lines. Run as ``python -m collcomm.bench.peer CASE``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import collcomm

from .checks import checked_peer
from .codecs import coded_peer
from .gpu import cupy, gpu_facts
from .grouppeer import group_peer
from .hostpeer import host_peer
from .measure import alternate, repetitions, slowest, timed
from .mpireference import MpiReference
from .overlap import overlap_peer
from .planpeer import lasting_peer, plan_peer
from .records import recorded_peer
from .sickpeer import sick_peer
from .snapshots import snapshot_peer
from .statepeer import donor, newcomer
from .stridedpeer import strided_peer
from .torchrank import torch_rank
from .workload import Call, our_call, torch_call

JOIN_SECONDS = 60.0


def emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def collectives(case: dict[str, Any]) -> None:
    """Times one kind over sizes: ours and, if asked, Gloo's or another group of ours, in blocks A B A B."""
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS, transports=case.get("transports"))
    gloo = _gloo(comm.rank, case["n"], case["gloo_port"]) if case.get("gloo_port") else None
    rival: dict[str, Any] = case.get("rival", {})
    other = collcomm.join(min_size=case["n"], timeout=JOIN_SECONDS, **rival["options"]) if rival else None
    arrays = cupy() if case.get("gpu") else np
    if case.get("gpu") and comm.rank == 0:
        emit(event="gpu", **gpu_facts())
    mpi = MpiReference(case["n"]) if case.get("mpi") and comm.rank == 0 else None
    for nbytes in case["sizes"]:
        what = case["kind"], nbytes, case["dtype"], case["out_of_place"], arrays
        calls = {"ours": our_call(comm, *what)}
        if other is not None:
            calls[rival["name"]] = our_call(other, *what)
        if gloo is not None:
            calls["gloo"] = torch_call(gloo, case["kind"], nbytes, case["dtype"], comm.size)
        counts = {
            who: case.get("repetitions") or _repetitions(comm, call, case["block"]) for who, call in calls.items()
        }
        blocks: dict[str, Callable[[], list[float]]] = {
            who: partial(timed, call, counts[who]) for who, call in calls.items()
        }
        if case.get("mpi"):  # rank 0 has it run; the others wait at the next barrier, asleep
            blocks["mpi"] = partial(mpi.block, nbytes, case["out_of_place"], case["block"]) if mpi else list
        times = alternate(blocks, case["rounds"], comm.barrier)
        if comm.rank == 0:
            emit(event="times", nbytes=nbytes, times={who: found for who, found in times.items() if found})
    if gloo is not None:
        gloo.destroy_process_group()
    if other is not None:
        other.leave()
    if mpi is not None:
        mpi.close()
    comm.leave()


def _repetitions(comm: collcomm.Communicator, call: Call, seconds: float) -> int:
    return repetitions(call, seconds, partial(slowest, comm))


def _gloo(rank: int, n: int, port: int) -> Any:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    import torch
    import torch.distributed as distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=n)
    return distributed


def survivor(case: dict[str, Any]) -> None:
    """Reduces without pause; tells when it noticed the victim's death, and when it held the retried result."""
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS)
    x = np.ones(case["nbytes"] // 4, np.float32)
    out = np.empty_like(x)
    for _ in range(5):
        comm.all_reduce(x, out=out, codec=case["codec"])
    emit(event="running", name=comm.name)
    while comm.size == case["n"]:
        comm.all_reduce(x, out=out, codec=case["codec"])
    done = time.monotonic()
    if not (out == comm.size).all():
        raise AssertionError("the retried result is wrong")
    emit(event="survived", done=done, noticed=done - comm.stats()["seconds_lost"])
    comm.leave()


def stepper(case: dict[str, Any]) -> None:
    """A member that steps and reduces without pause until the group has grown and shrunk again."""
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS)
    x = np.ones(256, np.float32)
    emit(event="running", name=comm.name)
    grown = False
    while not (grown and comm.size <= case["n"]):
        comm.step()
        grown = grown or comm.size > case["n"]
        comm.all_reduce(x)
    comm.leave()


def joiner(case: dict[str, Any]) -> None:
    """Joins a running group: the time from the call of join() to the first finished reduction."""
    x = np.ones(256, np.float32)
    began = time.perf_counter()
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS)
    admitted = time.perf_counter()
    comm.all_reduce(x)
    done = time.perf_counter()
    emit(event="joined", seconds=done - began, admitted=admitted - began)
    comm.leave()


def steady(case: dict[str, Any]) -> None:
    """Reduces without pause until a file appears; rank 0 tells when each reduction ended and what it took."""
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS, secret=case["secret"])
    x = np.ones(case["nbytes"] // 4, np.float32)
    out, stopped = np.empty_like(x), np.zeros(1)
    emit(event="running", name=comm.name)
    done = []
    while not comm.all_reduce(stopped, op="max", out=stopped)[0]:
        began = time.monotonic()
        comm.all_reduce(x, out=out)
        ended = time.monotonic()
        done.append((ended, ended - began))
        stopped[0] = os.path.exists(case["stop"])
    if comm.rank == 0:
        emit(event="done", times=done, epoch=comm.view.epoch)
    comm.leave()


CASES = {
    "collectives": collectives,
    "steady": steady,
    "survivor": survivor,
    "stepper": stepper,
    "joiner": joiner,
    "host_peer": lambda case: host_peer(case, emit),
    "group_peer": lambda case: group_peer(case, emit),
    "lasting_peer": lambda case: lasting_peer(case, emit),
    "plan_peer": lambda case: plan_peer(case, emit),
    "overlap_peer": lambda case: overlap_peer(case, emit),
    "snapshot_peer": lambda case: snapshot_peer(case, emit),
    "recorded_peer": lambda case: recorded_peer(case, emit),
    "sick_peer": lambda case: sick_peer(case, emit),
    "strided_peer": lambda case: strided_peer(case, emit),
    "checked_peer": lambda case: checked_peer(case, emit),
    "coded_peer": lambda case: coded_peer(case, emit),
    "donor": lambda case: donor(case, emit),
    "torch_rank": lambda case: torch_rank(case, emit),
    "newcomer": lambda case: newcomer(case, emit),
}


def main() -> None:
    case = json.loads(sys.argv[1])
    try:
        CASES[case["case"]](case)
    except Exception as error:
        emit(event="error", text=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
