"""A peer of `collcomm bench plan groups`: several groups reduce at the same time, each on a thread of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

import collcomm

from ..communicator import Communicator
from .planpeer import JOIN_SECONDS, await_plan, fixed

CALL_SECONDS = 120.0


def group_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    """``case["groups"]``: the peers in each, by their numbers (``index``); all of them reduce ``nbytes`` ``repetitions``
    times, by the plan and, in turn, each by a ring in the order of its ranks over one stream per link."""
    if case.get("site"):
        os.environ["COLLCOMM_SITE"] = case["site"]
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS)
    plain = collcomm.join(
        case["address"], group="plain", min_size=case["n"], timeout=JOIN_SECONDS, probe=False, site=""
    )
    here, there = (
        np.argsort(whole.all_gather(np.array([case["index"]]))) for whole in (comm, plain)
    )  # ranks by number
    await_plan(comm)
    planned = [comm.split([int(here[number]) for number in group]) for group in case["groups"]]
    unplanned = [_unplanned(plain, [int(there[number]) for number in group]) for group in case["groups"]]
    times: dict[str, list[float]] = {"planned": [], "unplanned": []}
    for turn in range(case["rounds"] + 1):
        for name, groups in (("planned", planned), ("unplanned", unplanned)):
            comm.barrier()
            began = time.perf_counter()
            _all_at_once([group for group in groups if group is not None], case)
            comm.barrier()
            if turn:  # the first makes connections
                times[name].append(time.perf_counter() - began)
    emit(event="compared", rank=comm.rank, times=times)
    comm.barrier()
    plain.leave()
    comm.leave()


def _unplanned(plain: Communicator, ranks: list[int]) -> Communicator | None:
    """A ring in the order in which ``ranks`` are given."""
    position = {rank: number for number, rank in enumerate(sorted(ranks))}
    return fixed(plain, ranks, "ring", 0, order=tuple(position[rank] for rank in ranks))


def _all_at_once(groups: list[Communicator], case: dict[str, Any]) -> None:
    """Raises what any of them raises."""
    with ThreadPoolExecutor(max(1, len(groups))) as threads:
        for reduced in [threads.submit(_reduce, group, case) for group in groups]:
            reduced.result(CALL_SECONDS)


def _reduce(group: Communicator, case: dict[str, Any]) -> None:
    x = np.ones(case["nbytes"] // 4, np.float32)
    out = np.empty_like(x)
    for _ in range(case["repetitions"]):
        group.all_reduce(x, out=out, timeout=CALL_SECONDS)
    assert (out == group.size).all()
