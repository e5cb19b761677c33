"""Packing on the host: ours, Open MPI's (`MPI.Datatype.Pack`), and numpy's (`ascontiguousarray`), on the types of the TEMPI paper
(arXiv 2012.14363): vectors of blocks 512 bytes apart, and boxes within a larger one."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ..datatypes import Datatype, hvector, subarray
from ..datatypes.packing import HostPacking
from .measure import alternate, format_size, summaries

Row = dict[str, Any]
SIZES = (1 << 10, 1 << 20, 1 << 22)
BLOCKS = tuple(1 << power for power in range(10))  # bytes
STRIDE = 512
SIDE = 256  # of the large box, in floats
RADIUS = 3
_N = SIDE
BOXES = (
    (8, 8, 8),
    (16, 128, 5),
    (64, 64, 64),
    (100, 100, 100),
    (128, 128, 2),
    (1, _N, _N),
    (_N, 1, _N),
    (_N, _N, 1),
    (RADIUS, _N, _N),  # faces, edges, and a corner of a halo
    (_N, RADIUS, _N),
    (_N, _N, RADIUS),
    (RADIUS, RADIUS, _N),
    (RADIUS, _N, RADIUS),
    (_N, RADIUS, RADIUS),
    (RADIUS, RADIUS, RADIUS),
)
BLOCK_SECONDS = 4e-3  # of calls that are timed together
ENOUGH = 0.9  # of the speed of the better of the others


class Case(NamedTuple):
    """The same bytes of ``memory`` as our type, as Open MPI's, and as numpy's view."""

    name: str
    ours: Datatype
    theirs: Any
    memory: Any
    view: Any


def bench_packing(sizes: Sequence[int] = SIZES, rounds: int = 5) -> list[Row]:
    """Seconds of packing once, prepared beforehand as far as each can. Raises AssertionError where results differ."""
    return [_measured(case, rounds) for case in chain(_vectors(sizes), _boxes())]


def _vectors(sizes: Sequence[int]) -> Iterator[Case]:
    from mpi4py import MPI

    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for nbytes in sizes:
        for block in BLOCKS:
            count = nbytes // block
            reach = (count - 1) * STRIDE + block
            name = f"2-D {format_size(nbytes)}, blocks of {block} B"
            if reach > free // 2:
                print(f"{name}: left out, {format_size(reach)} do not fit into memory")
                continue
            memory = np.arange(reach, dtype=np.uint8)
            view = np.lib.stride_tricks.as_strided(memory, (count, block), (STRIDE, 1))
            ours, theirs = hvector(count, block, STRIDE, np.uint8), MPI.BYTE.Create_hvector(count, block, STRIDE)
            yield Case(name, ours, theirs, memory, view)


def _boxes() -> Iterator[Case]:
    from mpi4py import MPI

    whole = np.random.default_rng(1).random((SIDE, SIDE, SIDE), np.float32)
    memory = whole.view(np.uint8).reshape(-1)
    for shape in BOXES:
        start = [0 if size == SIDE else 3 for size in shape]
        view = whole[tuple(slice(first, first + size) for first, size in zip(start, shape, strict=True))]
        ours = subarray(whole.shape, shape, start, np.float32)
        theirs = MPI.FLOAT.Create_subarray(whole.shape, shape, start)
        yield Case(f"3-D {' x '.join(map(str, shape))} floats", ours, theirs, memory, view)


def _measured(case: Case, rounds: int) -> Row:
    from mpi4py import MPI

    packing = HostPacking(case.ours.layout, case.memory)
    out, other = np.empty(case.ours.size, np.uint8), np.empty(case.ours.size, np.uint8)
    theirs = case.theirs.Commit()
    in_place = packing.in_place
    calls: dict[str, Callable[[], Any]] = {
        "ours": packing.packer(out) if in_place is None else lambda: packing.in_place,
        "mpi": lambda: theirs.Pack(case.memory, other, 0, MPI.COMM_SELF),
        "numpy": lambda: np.ascontiguousarray(case.view),
    }
    for call in calls.values():
        call()
    expected = np.ascontiguousarray(case.view).view(np.uint8).reshape(-1)
    assert np.array_equal(out if in_place is None else in_place, expected), case.name
    assert np.array_equal(other, expected), case.name
    blocks = {who: partial(_block, call, _count(call)) for who, call in calls.items()}
    times = summaries(alternate(blocks, rounds, lambda: None))
    theirs.Free()
    ours = times["ours"]["median"]
    return {
        "kind": "pack",
        "case": case.name,
        "nbytes": case.ours.size,
        "runs": case.ours.layout.runs,
        "contiguous": in_place is not None,
        **times,
        "mpi / ours": times["mpi"]["median"] / ours,
        "best / ours": min(times["mpi"]["median"], times["numpy"]["median"]) / ours,
    }


def _count(call: Callable[[], Any]) -> int:
    """How many calls fill a block."""
    (took,) = _block(call, 2)
    return max(1, min(10_000, int(BLOCK_SECONDS / took)))


def _block(call: Callable[[], Any], count: int) -> list[float]:
    """Seconds of a call, of ``count`` in a row: some are as short as the reading of a clock."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return [(time.perf_counter() - began) / count]


def cells(row: Row) -> dict[str, str]:
    found = {"case": row["case"], "packed": format_size(row["nbytes"]), "runs": str(row["runs"])}
    for who in ("ours", "mpi", "numpy"):
        found[who] = f"{row[who]['median'] * 1e6:.2f} us"
    return {**found, "mpi / ours": f"{row['mpi / ours']:.2f}x", "best / ours": f"{row['best / ours']:.2f}x"}


def verdict(rows: Sequence[Row]) -> str:
    strided = [row for row in rows if not row["contiguous"]]
    worst = min(strided, key=lambda row: row["best / ours"])
    slower = [row for row in rows if row["best / ours"] < ENOUGH]
    return (
        f"against MPI's, geometric mean: {_mean(rows):.2f}x, without contiguous types {_mean(strided):.2f}x; "
        f"against the better of the two, worst: {worst['best / ours']:.2f}x ({worst['case']}), "
        f"below {ENOUGH}x in {len(slower)} of {len(rows)} cases"
    )


def _mean(rows: Sequence[Row]) -> float:
    return math.exp(sum(math.log(row["mpi / ours"]) for row in rows) / len(rows)) if rows else math.nan
