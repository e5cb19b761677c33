"""The tables of `collcomm bench plan`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from .measure import format_seconds, format_size
from .plancases import (
    Row,
    bench_choice,
    bench_crossover,
    bench_groups,
    bench_long,
    bench_order,
    bench_path_death,
    bench_paths,
    bench_sites,
    laboratories,
)
from .report import print_table

MEGA = 1e6
Cells = dict[str, str]


def _choice(rounds: int) -> tuple[list[Row], list[Cells]]:
    rows = [row for name in laboratories() for row in bench_choice(name, rounds)]
    cells = [
        {
            "network": row["laboratory"],
            "size": format_size(row["nbytes"]),
            "planned": format_seconds(row["planned"]),
            "by": row["by"],
            "best fixed": format_seconds(row["best_seconds"]),
            "algorithm": row["best"],
            "planned / best": f"{row['ratio']:.2f}x",
            "simulated / measured": ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["simulated"].items()),
        }
        for row in rows
    ]
    return rows, cells


def _order(rounds: int) -> tuple[list[Row], list[Cells]]:
    row = bench_order(rounds=rounds)
    cells = {
        "size": format_size(row["nbytes"]),
        "order found": " ".join(map(str, row["order"])),
        "by hosts": format_seconds(row["times"]["hosts"]),
        "planned": format_seconds(row["times"]["planned ring"]),
        "speed-up": f"{row['speed-up']:.2f}x",
        "predicted": f"{row['predicted speed-up']:.2f}x",
    }
    return [row], [cells]


def _sites(rounds: int) -> tuple[list[Row], list[Cells]]:
    rows = bench_sites(rounds=rounds)
    cells = [
        {
            "ranks": row["ranks"],
            "size": format_size(row["nbytes"]),
            "planned": format_seconds(row["times"]["planned"]),
            "by": row["by"],
            "flat ring": format_seconds(row["times"]["flat ring"]),
            "flat / planned": f"{row['ratio']:.2f}x",
        }
        for row in rows
    ]
    return rows, cells


def _crossover(rounds: int) -> tuple[list[Row], list[Cells]]:
    row = bench_crossover(rounds=rounds)
    cells = [
        {"size": format_size(nbytes), "star": format_seconds(star), "ring": format_seconds(ring)}
        for nbytes, star, ring in row["points"]
    ]
    print(f"the ring is faster from {row['measured']:.0f} bytes on; by the formula from {row['formula']:.0f}")
    return [row], cells


def _rates(row: Row) -> list[Cells]:
    return [
        {"way": way, "streams": str(row["streams"]) if way == "planned" else "1", "MB/s": f"{rate / MEGA:.1f}"}
        for way, rate in row["reached"].items()
    ]


def _long(rounds: int) -> tuple[list[Row], list[Cells]]:
    row = bench_long(rounds=rounds)
    print(f"the link carries {row['rate'] / MEGA:.1f} MB/s of payload each way")
    return [row], _rates(row)


def _paths(rounds: int) -> tuple[list[Row], list[Cells]]:
    row = bench_paths(rounds=rounds)
    print(f"each of two paths carries {row['rate of a path'] / MEGA:.2f} MB/s; planned / one path: {row['ratio']:.2f}x")
    return [row], _rates(row)


def _death(rounds: int) -> tuple[list[Row], list[Cells]]:
    row = bench_path_death()
    cells = {
        "both paths": f"{row['both paths'] / MEGA:.2f} MB/s",
        "one left": f"{row['one path left'] / MEGA:.2f} MB/s",
        "of its rate": f"{row['share']:.0%}",
        "the call that is hit": format_seconds(row["the call that is hit"]),
        "view changes": str(row["views"]),
    }
    return [row], [cells]


def _groups(rounds: int) -> tuple[list[Row], list[Cells]]:
    row = bench_groups(rounds=rounds)
    cells = {way: format_seconds(seconds) for way, seconds in row["times"].items()}
    return [row], [{**cells, "unplanned / planned": f"{row['ratio']:.2f}x"}]


PLAN_PARTS: dict[str, Callable[[int], tuple[list[Row], list[Cells]]]] = {
    "choice": _choice,
    "order": _order,
    "sites": _sites,
    "crossover": _crossover,
    "long": _long,
    "paths": _paths,
    "death": _death,
    "groups": _groups,
}


def run_plan(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Times ``options.part``, or all. Raises PermissionError where no namespaces can be made, ValueError for another's part."""
    if options.part and options.part not in PLAN_PARTS:
        raise ValueError(f"{options.part} is not a part of plan; there are {', '.join(PLAN_PARTS)}")
    found: list[Row] = []
    for name in [options.part] if options.part else PLAN_PARTS:
        rows, cells = PLAN_PARTS[name](options.rounds)
        print_table(f"collcomm bench plan {name}", cells)
        found += [{"part": name, **row} for row in rows]
    return found
