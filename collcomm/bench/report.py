"""Figures as tables, on a terminal or anywhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .measure import format_seconds, format_size, machine

Row = dict[str, Any]
OTHERS = ("gloo", "mpi", "tls", "host", "crowd", "flat")  # what a row may hold besides ours


def print_rows(title: str, rows: Sequence[Row]) -> None:
    """A table of the rows of one bench, under what they depend on."""
    print_table(title, [_cells(row) for row in rows])


def print_table(title: str, lines: Sequence[dict[str, str]], about: Mapping[str, Any] | None = None) -> None:
    """``lines``: all with the cells of the first. ``about``: what the figures depend on, if it is not this machine."""
    facts = ", ".join(f"{name} {value}" for name, value in (machine() if about is None else about).items())
    header = list(lines[0])
    table = [[line[name] for name in header] for line in lines]
    widths = [max(len(name), *(len(row[i]) for row in table)) for i, name in enumerate(header)]
    print(f"\n{title}\n({facts})")
    for row in [header, ["-" * width for width in widths], *table]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))


def _cells(row: Row) -> dict[str, str]:
    cells = {"peers": str(row["peers"])}
    if "nbytes" in row:
        cells["size"] = format_size(row["nbytes"])
    for who in ("ours", *OTHERS):
        if who in row:
            cells[who] = format_seconds(row[who]["median"])
            cells[f"{who} p99"] = format_seconds(row[who]["p99"])
            if "bus_bandwidth" in row[who]:
                cells[f"{who} bus"] = f"{row[who]['bus_bandwidth'] / 1e9:.2f} GB/s"
            ratio = row[who].get("ratio", row.get("ratio"))
            if who != "ours" and ratio is not None:
                cells[f"{who} / ours"] = f"{ratio:.3g}x"
    if "order" in row:
        cells["hosts by rank"] = row["order"]
        cells["sent / least"] = f"{row['sent']:.3f}x"
        cells["flat sent"] = f"{row['sent flat']:.3f}x"
    if "gpu" in row:
        cells["GPU"] = row["gpu"]
        cells["read and written"] = f"{row['moved'] / max(1, row['nbytes']):.2f} times the size"
    if "how" in row:
        cells["by"] = row["how"]
    for what in ("noticed", "held", "joined", "resumed", "pause"):
        if what in row:
            cells[what] = format_seconds(row[what]["median"])
            cells[f"{what} p99"] = format_seconds(row[what]["p99"])
    if "share" in row:
        cells["bound"] = format_seconds(row["bound"])
        cells["share of bound"] = f"{row['share'] * 100:.1f}%"
    if "slowed" in row:
        cells["reducing"] = "all" if row["together"] else "donors"
        for what in ("before", "during"):
            cells[f"step {what}"] = format_seconds(row[what]["median"])
        cells["steps slowed"] = f"{row['slowed']:.3f}x"
    return cells
