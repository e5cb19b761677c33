"""How strided messages are best sent, by size and length of their runs, and whether the model of this machine knows."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..membership import Coordinator
from .launch import Peers
from .measure import format_seconds, format_size, summaries

Row = dict[str, Any]
SIZES = tuple(1 << power for power in range(12, 25, 2))  # 4 KiB to 16 MiB
RUNS = (8, 64, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536)
GOOD = 1.1  # times the best of the fixed ways
START_SECONDS = 60.0


def bench_strided_send(
    sizes: Sequence[int] = SIZES, rounds: int = 5, transport: str = "tcp", block: float = 0.03, timeout: float = 1200.0
) -> list[Row]:
    """Times of a message between two processes, for each size and each length of a run: always by gather I/O, always packed, and
    as the model chooses; in turns."""
    grid = [(nbytes, run) for nbytes in sizes for run in RUNS if 2 * run <= nbytes]
    with Coordinator("127.0.0.1:0") as coordinator, Peers() as peers:
        case = {
            "case": "strided_peer",
            "address": coordinator.address,
            "grid": grid,
            "rounds": rounds,
            "block": block,
            "transports": [transport],
        }
        for index in range(2):
            peers.start(index, case)
        return [_row(event) for event in peers.times(len(grid), timeout, START_SECONDS)]


def _row(event: Row) -> Row:
    times = summaries(event["times"])
    best = min(times[name]["median"] for name in ("gather", "pack") if name in times)
    return {
        "kind": "strided-send",
        "nbytes": event["nbytes"],
        "run": event["run"],
        "chosen": event["chosen"],
        **times,
        "of best": times["model"]["median"] / best,
    }


def cells(row: Row) -> dict[str, str]:
    found = {"size": format_size(row["nbytes"]), "runs of": format_size(row["run"])}
    for name in ("gather", "pack", "model"):
        found[name] = format_seconds(row[name]["median"]) if name in row else "-"
    found["sent, received by"] = " ".join(row["chosen"])
    found["model / best"] = f"{row['of best']:.2f}x"
    return found


def verdict(rows: Sequence[Row]) -> str:
    good = sum(row["of best"] <= GOOD for row in rows)
    ratios = [row["of best"] for row in rows]
    return (
        f"within {GOOD - 1:.0%} of the best fixed way in {good} of {len(rows)} cases ({good / len(rows):.0%}); "
        f"median {statistics.median(ratios):.2f}x, worst {max(ratios):.2f}x"
    )
