"""The command line of the benches of strided data: packing on the host and on a GPU, and messages."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from . import gpupack, halo, packing, stridedsend
from .gpu import why_no_gpu
from .measure import parse_size
from .mpilaunch import why_not
from .report import print_table

STRIDED = ("pack", "pack-gpu", "strided-send", "halo")
Row = dict[str, Any]


def run_strided(options: argparse.Namespace) -> list[Row] | None:
    """The rows of one of `STRIDED`, which are printed; None where this machine lacks something, as is printed, too."""
    if options.case == "halo":
        return _halo(options)
    sizes = [parse_size(text) for text in options.sizes or ()]
    if options.case == "pack":
        return _pack(sizes or packing.SIZES, options.rounds)
    if options.case == "pack-gpu":
        return _pack_gpu(sizes or gpupack.SIZES, options.rounds)
    rows = stridedsend.bench_strided_send(sizes or stridedsend.SIZES, options.rounds, options.transport or "tcp")
    print_table("collcomm bench strided-send", [stridedsend.cells(row) for row in rows])
    print(stridedsend.verdict(rows))
    return rows


def _pack(sizes: Sequence[int], rounds: int) -> list[Row] | None:
    if why := why_not():
        print(why)
        return None
    rows = packing.bench_packing(sizes, rounds)
    print_table("collcomm bench pack", [packing.cells(row) for row in rows])
    print(packing.verdict(rows))
    return rows


def _halo(options: argparse.Namespace) -> list[Row] | None:
    if why := why_not():
        print(why)
        return None
    edges = [int(text) for text in options.sizes or ()] or halo.EDGES
    rows = []
    for n in options.peers or (8,):
        rows += halo.bench_halo(n, edges, options.rounds, options.transport or "shm")
    print_table(
        f"collcomm bench halo, {' and '.join(map(str, options.peers or (8,)))} processes", [*map(halo.cells, rows)]
    )
    return rows


def _pack_gpu(sizes: Sequence[int], rounds: int) -> list[Row] | None:
    if why := why_no_gpu():
        print(f"there is no GPU to pack on: {why}")
        return None
    rows = gpupack.bench_gpu_packing(sizes, rounds)
    title = f"collcomm bench pack-gpu on {rows[0]['gpu']}"
    print_table(title, [gpupack.cells(row) for row in rows if "copies" not in row])
    print_table(f"{title}, against one copy for each block", [gpupack.cells(row) for row in rows if "copies" in row])
    return rows
