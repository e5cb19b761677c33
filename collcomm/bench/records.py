"""What the records of operations cost: the same all_reduce in two groups of the same processes, one of which keeps none, in
alternating blocks of one run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import collcomm

from .launch import Peers
from .measure import alternate, format_seconds, format_size, parse_size, repetitions, slowest, summaries, timed
from .report import print_table

SIZES = (4, 64 << 10, 1 << 20, 16 << 20)
PEERS = (2, 4)
RUN_SECONDS = 1200.0
JOIN_SECONDS = 60.0
GROUPS = {"recorded": "1", "not": "0"}  # COLLCOMM_RECORD
Row = dict[str, Any]


def run_records(options: argparse.Namespace) -> list[Row]:
    """The rows, which are printed."""
    sizes = [parse_size(text) for text in options.sizes or ()] or SIZES
    rows = [row for n in options.peers or PEERS for row in bench_records(n, sizes, options)]
    print_table("collcomm bench records", [_cells(row) for row in rows])
    return rows


def bench_records(n: int, sizes: Sequence[int], options: argparse.Namespace) -> list[Row]:
    """Among ``n`` processes of this machine. ``sizes``: bytes."""
    transport = options.transport or "tcp"
    case = {"case": "recorded_peer", "n": n, "sizes": list(sizes), "transports": [transport]}
    case |= {"rounds": options.rounds, "block": options.block}
    about = {"kind": "records", "peers": n, "transport": transport}
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Peers() as peers:
        for index in range(n):
            peers.start(index, {**case, "address": coordinator.address})
        told = peers.times(len(sizes), RUN_SECONDS)
    return [{**about, "nbytes": event["nbytes"], **summaries(event["times"])} for event in told]


def recorded_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    """One process of the bench."""
    groups = {}
    for name, record in GROUPS.items():
        os.environ["COLLCOMM_RECORD"] = record
        groups[name] = collcomm.join(
            case["address"],
            group=name,
            min_size=case["n"],
            timeout=JOIN_SECONDS,
            transports=case["transports"],
            probe=False,
        )
    comm = groups["recorded"]
    for nbytes in case["sizes"]:
        x = np.zeros(max(1, nbytes // 4), np.float32)
        calls = {who: partial(group.all_reduce, x, out=x) for who, group in groups.items()}
        count = repetitions(calls["not"], case["block"], partial(slowest, comm))
        blocks: dict[str, Callable[[], list[float]]] = {who: partial(timed, call, count) for who, call in calls.items()}
        times = alternate(blocks, case["rounds"], comm.barrier)
        if comm.rank == 0:
            emit(event="times", nbytes=nbytes, times=times)
    for group in groups.values():
        group.leave()


def _cells(row: Row) -> dict[str, str]:
    on, off = row["recorded"]["median"], row["not"]["median"]
    return {
        "peers": str(row["peers"]),
        "transport": row["transport"],
        "size": format_size(row["nbytes"]),
        "recorded": format_seconds(on),
        "not": format_seconds(off),
        "costs": f"{on / off - 1:+.1%}",
    }
