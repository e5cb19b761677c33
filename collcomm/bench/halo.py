"""`collcomm bench halo`: the exchange of halos with 26 neighbours, against messages for each piece, and against mpi4py."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import collcomm

from .measure import format_seconds, format_size
from .mpilaunch import run_ranks

Row = dict[str, Any]
EDGES, RADII = (64, 128, 256), (1, 2, 3)
BLOCK_SECONDS = 0.3
TIMEOUT = 1500.0
RIVALS = ("requests", "persistent", "neighbours")  # of mpi4py


def bench_halo(n: int, edges: Sequence[int], rounds: int, transport: str) -> list[Row]:
    """Medians among ``n`` ranks, each with a block of ``edges`` cells along each edge, for radius 1 to 3."""
    grid = [[edge, radius] for edge in edges for radius in RADII]
    with collcomm.Coordinator("127.0.0.1:0") as coordinator:
        timing = {"rounds": rounds, "block": BLOCK_SECONDS}
        case = {"address": coordinator.address, "transport": transport, "grid": grid, **timing}
        events = run_ranks(n, case, TIMEOUT, program=("-m", "collcomm.bench.halorank"))
    rows = []
    for event in events:
        if event["event"] == "times":
            times = {way: median(found) for way, found in event["times"].items()}
            row = {key: event[key] for key in ("edge", "radius", "nbytes")}
            rows.append({"kind": "halo", "peers": n, "transport": transport, **row, "times": times})
    return rows


def cells(row: Row) -> dict[str, str]:
    """One line of the table; ratios are times over ours."""
    times = row["times"]
    best = min(times[way] for way in RIVALS)
    return {
        "block": f"{row['edge']}^3",
        "radius": str(row["radius"]),
        "sent": format_size(row["nbytes"]),
        **{way: format_seconds(took) for way, took in times.items()},
        "pieces / ours": f"{times['pieces'] / times['ours']:.0f}x",
        "requests / ours": f"{times['requests'] / times['ours']:.2f}x",
        "best of MPI / ours": f"{best / times['ours']:.2f}x",
    }
