"""A peer of `collcomm bench hosts`: the schedule over hosts and the flat one, in turn, and what each sent over the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import collcomm

from ..engine import Group
from ..planner import choose

JOIN_SECONDS = 60.0


def host_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    emit(event="calls")  # the next peer is started after this one: their ranks follow
    comm = collcomm.join(case["address"], min_size=case["n"], timeout=JOIN_SECONDS)
    flat = comm.split(range(comm.size))
    assert flat is not None and isinstance(flat._group, Group)
    flat._group.choose = lambda kind, nbytes, view: choose(
        kind, view.size, nbytes
    )  # as if nobody knew who shares a host
    x = np.ones(case["nbytes"] // 4, np.float32)
    out = np.empty_like(x)
    times: dict[str, list[float]] = {"ours": [], "flat": []}
    sent: dict[str, list[int]] = {"ours": [], "flat": []}
    for turn in range(case["rounds"] + 1):
        for who, group in (("ours", comm), ("flat", flat)):
            comm.barrier()
            before, began = _sent_over_the_network(), time.perf_counter()
            group.all_reduce(x, out=out)
            took = time.perf_counter() - began
            comm.barrier()
            assert (out == comm.size).all()
            if turn:  # the first makes connections
                times[who].append(took)
                sent[who].append(_sent_over_the_network() - before)
    emit(event="compared", rank=comm.rank, hosts=comm.view.hosts, times=times, sent=sent)
    comm.leave()


def _sent_over_the_network() -> int:
    """Bytes that this network namespace has sent on anything but its loopback."""
    lines = Path("/proc/net/dev").read_text().splitlines()[2:]
    rows = [line.replace(":", " ").split() for line in lines]
    return sum(int(row[9]) for row in rows if row[0] != "lo")
