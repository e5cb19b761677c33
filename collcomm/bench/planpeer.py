"""A peer of `collcomm bench plan`: waits for the measured plan, then times collectives by it and by fixed choices, in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import collcomm

from ..communicator import Communicator
from ..engine import Group
from ..planner import Choice, choose
from ..types import View

JOIN_SECONDS = 60.0
PLAN_SECONDS = 90.0  # for links to be measured and a plan to be fitted
SETTLED_SECONDS = 4.0  # without a newer plan
PAUSE_SECONDS = 0.05  # between two steps that wait for a plan


def plan_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    """``case["ways"]``: name -> None for the plan, or [algorithm, parameters] for a fixed choice; ``sizes`` in bytes;
    ``seconds``: of one block of calls; ``kind``."""
    emit(event="calls")  # the next peer is started after this one: their ranks follow
    if "site" in case:
        os.environ["COLLCOMM_SITE"] = case["site"]
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS)
    waited = _await_plan(comm) if case.get("planned", True) else 0.0
    groups = {name: _by(comm, way) for name, way in case["ways"].items()}
    rows = []
    for nbytes in case["sizes"]:
        rows.append(_timed(comm, groups, case, nbytes))
        if comm.rank == 0:
            emit(event="size", nbytes=nbytes, times=rows[-1])
    found = {
        str(nbytes): {
            "text": str(comm.explain(case["kind"], nbytes)),
            "algorithm": comm.explain(case["kind"], nbytes).algorithm,
            "predicted": comm.explain(case["kind"], nbytes).predicted,
        }
        for nbytes in case["sizes"]
    }
    plan = comm.view.plan
    order = [] if plan is None else [comm.view.rank_of(member) for member in plan.order]
    emit(event="compared", rank=comm.rank, waited=waited, order=order, explained=found)
    comm.barrier()
    comm.leave()


def _await_plan(comm: Communicator) -> float:
    """Step until no better plan has come for a while; returns the seconds until the last one came."""
    began = last = time.monotonic()
    revision = 0
    while True:
        plan = comm.step().plan
        now = time.monotonic()
        if plan is not None and plan.revision != revision:
            revision, last = plan.revision, now
        quiet = revision and now - last > SETTLED_SECONDS
        if comm.all_reduce(np.array([quiet or now - began > PLAN_SECONDS], np.uint8), op="min")[0]:
            return last - began
        time.sleep(PAUSE_SECONDS)


def _by(comm: Communicator, way: list[Any] | None) -> Communicator:
    """A communicator of all members whose collectives go ``way``."""
    if way is None:
        return comm
    group = comm.split(range(comm.size))
    assert group is not None and isinstance(group._group, Group)
    group._group.choose = partial(_fixed, way)
    return group


def _fixed(way: list[Any], kind: str, nbytes: int, view: View) -> Choice:
    algorithm, parameters = way
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in parameters.items()}
    if algorithm == "ring" and kind == "all_reduce" and "segments" not in given:
        given |= choose(kind, view.size, nbytes, only="ring").parameters
    return Choice(algorithm, given)


def _timed(
    comm: Communicator, groups: dict[str, Communicator], case: dict[str, Any], nbytes: int
) -> dict[str, list[float]]:
    """Seconds per call, by way; the ways take turns."""
    x = np.ones(max(1, nbytes // 4), np.float32)
    out = np.empty_like(x)
    times: dict[str, list[float]] = {name: [] for name in groups}
    counts: dict[str, int] = {}
    for turn in range(case["rounds"] + 1):
        for name, group in groups.items():
            comm.barrier()
            began = time.perf_counter()
            for _ in range(counts.get(name, 1)):
                group.all_reduce(x, out=out)
            took = (time.perf_counter() - began) / counts.get(name, 1)
            if turn:
                times[name].append(took)
                continue
            group.all_reduce(x, out=out)  # the first made connections
            began = time.perf_counter()
            group.all_reduce(x, out=out)
            once = float(comm.all_reduce(np.array([time.perf_counter() - began]), op="max")[0])
            counts[name] = max(1, min(200, int(case["seconds"] / once)))
    assert (out == comm.size).all()
    return times
