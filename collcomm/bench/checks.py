"""What checks for silent corruption cost: the same all_reduce with and without them, in alternating blocks of one run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import collcomm

from .launch import Peers
from .measure import alternate, format_seconds, format_size, parse_size, repetitions, slowest, summaries, timed
from .report import print_table
from .workload import Call, numpy_dtype

SIZES = (64 << 10, 1 << 20, 16 << 20)
PEERS = (2, 4)
RUN_SECONDS = 1200.0
JOIN_SECONDS = 60.0
VARIANTS = {  # name -> check, op
    "plain": (None, "sum"),
    "agree": ("agree", "sum"),
    "sum": ("sum", "sum"),
    "plain max": (None, "max"),
    "twice": ("sum", "max"),
}
Row = dict[str, Any]


def run_checks(options: argparse.Namespace) -> list[Row]:
    """The rows, which are printed."""
    sizes = [parse_size(text) for text in options.sizes or ()] or SIZES
    rows = [row for n in options.peers or PEERS for row in bench_checks(n, sizes, options)]
    print_table("collcomm bench checks", [_cells(row) for row in rows])
    return rows


def bench_checks(n: int, sizes: Sequence[int], options: argparse.Namespace) -> list[Row]:
    """Among ``n`` processes of this machine. ``sizes``: bytes."""
    transport = options.transport or "shm"
    case = {"case": "checked_peer", "n": n, "sizes": list(sizes), "transports": [transport], "dtype": options.dtype}
    case |= {"rounds": options.rounds, "block": options.block, "out_of_place": options.out_of_place}
    about = {"kind": "checks", "peers": n, "transport": transport, "dtype": options.dtype}
    with collcomm.Coordinator("127.0.0.1:0") as coordinator, Peers() as peers:
        for index in range(n):
            peers.start(index, {**case, "address": coordinator.address})
        told = peers.times(len(sizes), RUN_SECONDS)
    return [{**about, "nbytes": event["nbytes"], **summaries(event["times"])} for event in told]


def checked_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    """One process of the bench. Raises AssertionError where a check finds something."""
    comm = collcomm.join(
        case["address"], min_size=case["n"], timeout=JOIN_SECONDS, transports=case["transports"], probe=False
    )
    checked = {check: comm.checked(check) for check in ("agree", "sum")}
    for nbytes in case["sizes"]:
        x = np.zeros(max(1, nbytes // numpy_dtype(case["dtype"]).itemsize), numpy_dtype(case["dtype"]))
        out = np.empty_like(x) if case["out_of_place"] else x  # zeros stay zeros
        calls: dict[str, Call] = {
            who: partial((checked[check] if check else comm).all_reduce, x, op=op, out=out)
            for who, (check, op) in VARIANTS.items()
        }
        counts = {who: repetitions(call, case["block"], partial(slowest, comm)) for who, call in calls.items()}
        blocks: dict[str, Callable[[], list[float]]] = {
            who: partial(timed, call, counts[who]) for who, call in calls.items()
        }
        times = alternate(blocks, case["rounds"], comm.barrier)
        if comm.rank == 0:
            emit(event="times", nbytes=nbytes, times=times)
    found = [each.check_stats()["wrong"] + each.check_stats()["audits"] for each in checked.values()]
    if any(found):
        raise AssertionError(f"checks of correct results found something: {found}")
    comm.leave()


def _cells(row: Row) -> dict[str, str]:
    cells = {"peers": str(row["peers"]), "size": format_size(row["nbytes"]), "transport": row["transport"]}
    for who, (check, op) in VARIANTS.items():
        median = row[who]["median"]
        cells[who] = format_seconds(median)
        if check:
            plain = row["plain" if op == "sum" else "plain max"]["median"]
            cells[f"{who} costs"] = f"+{100 * (median / plain - 1):.0f}%"
    return cells
