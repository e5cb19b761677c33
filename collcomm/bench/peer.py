"""One process of a bench: does what its case says and prints JSON lines. Run as ``python -m collcomm.bench.peer CASE``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import collcomm

from .measure import repetitions

Call = Callable[[], Any]


def emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def collectives(case: dict[str, Any]) -> None:
    """Times one kind over sizes: ours and, if asked, Gloo's, in alternating blocks."""
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=60, streams=case.get("streams", 1))
    gloo = _gloo(comm.rank, case["n"], case["gloo_port"]) if case.get("gloo_port") else None
    for nbytes in case["sizes"]:
        calls = {"ours": _ours(comm, case, nbytes)}
        if gloo is not None:
            calls["gloo"] = _gloo_call(gloo, case["kind"], nbytes, comm.size)
        times: dict[str, list[float]] = {who: [] for who in calls}
        count = case.get("repetitions") or repetitions(nbytes)
        for call in calls.values():
            for _ in range(max(2, count // 20)):
                call()
        for _ in range(case["rounds"]):
            for who, call in calls.items():
                comm.barrier()
                times[who] += _block(call, count)
        if comm.rank == 0:
            emit(event="times", nbytes=nbytes, times=times)
    comm.leave()
    if gloo is not None:
        gloo.destroy_process_group()


def _block(call: Call, count: int) -> list[float]:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def _ours(comm: Any, case: dict[str, Any], nbytes: int) -> Call:
    """The call to time, verified once."""
    n, kind = comm.size, case["kind"]
    x = np.full(max(n, nbytes // 4), comm.rank + 1, np.float32)
    if nbytes == 4:
        x = x[:1]
    if kind != "all_reduce":
        x = x[: x.size // n * n]
        call = {
            "all_gather": lambda: comm.all_gather(x[: x.size // n], out=y),
            "reduce_scatter": lambda: comm.reduce_scatter(x, out=y),
            "all_to_all": lambda: comm.all_to_all(x, out=y),
            "broadcast": lambda: comm.broadcast(x, out=y),
        }[kind]
        y = np.empty(x.size // n if kind == "reduce_scatter" else x.size, np.float32)
        return call
    total = n * (n + 1) / 2
    y = np.empty_like(x)
    comm.all_reduce(x, out=y)
    if not (y == total).all():
        raise AssertionError(f"all_reduce of {nbytes} bytes is wrong: {y[:4]} instead of {total}")
    if case.get("out_of_place"):
        return lambda: comm.all_reduce(x, out=y)
    x[:] = 0  # stays 0 however often it is summed in place
    return lambda: comm.all_reduce(x, out=x)


def _gloo(rank: int, n: int, port: int) -> Any:
    import torch
    import torch.distributed as distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=n)
    return distributed


def _gloo_call(gloo: Any, kind: str, nbytes: int, n: int) -> Call:
    import torch

    tensor = torch.zeros(max(n, nbytes // 4) if nbytes > 4 else 1)
    whole = tensor[: tensor.numel() // n * n]
    part = torch.zeros(whole.numel() // n)
    calls: dict[str, Call] = {
        "all_reduce": lambda: gloo.all_reduce(tensor),
        "all_gather": lambda: gloo.all_gather_into_tensor(whole, part),
        "reduce_scatter": lambda: gloo.reduce_scatter_tensor(part, whole),
        "all_to_all": lambda: gloo.all_to_all_single(whole.clone(), whole),
        "broadcast": lambda: gloo.broadcast(whole, 0),
    }
    return calls[kind]


def survivor(case: dict[str, Any]) -> None:
    """Reduces without pause; tells when a view without the victim came, and when it held the first result in it."""
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=60)
    x = np.ones(case["nbytes"] // 4, np.float32)
    out = np.empty_like(x)
    for _ in range(5):
        comm.all_reduce(x, out=out)
    emit(event="running", pid=os.getpid(), name=comm.name)
    while comm.size == case["n"]:
        comm.all_reduce(x, out=out)
    done = time.monotonic()
    if not (out == comm.size).all():
        raise AssertionError("the retried result is wrong")
    emit(event="survived", done=done, noticed=done - comm.stats()["seconds_lost"])
    comm.leave()


def stepper(case: dict[str, Any]) -> None:
    """A member that steps and reduces without pause until the group has grown and shrunk again."""
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=60)
    x = np.ones(256, np.float32)
    emit(event="running", pid=os.getpid())
    grown = False
    while not (grown and comm.size == case["n"]):
        view = comm.step()
        comm.all_reduce(x)
        grown = grown or view.size > case["n"]
    comm.leave()


def joiner(case: dict[str, Any]) -> None:
    """Joins a running group: the time from the call of join() to the first finished reduction."""
    x = np.ones(256, np.float32)
    began = time.perf_counter()
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=60)
    admitted = time.perf_counter()
    comm.all_reduce(x)
    done = time.perf_counter()
    emit(event="joined", seconds=done - began, admitted=admitted - began)
    while comm.step().size <= case["n"]:  # what the members do
        comm.all_reduce(x)
        break
    comm.leave()


CASES = {"collectives": collectives, "survivor": survivor, "stepper": stepper, "joiner": joiner}


def main() -> None:
    case = json.loads(sys.argv[1])
    try:
        CASES[case["case"]](case)
    except Exception as error:
        emit(event="error", text=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
