"""A peer of `collcomm bench strided-send`: columns of a table to and fro, in each way that they can go."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import collcomm

from .. import tuning
from ..datatypes.model import Direction, Method
from ..pointtopoint import PointToPoint
from .measure import alternate, repetitions, slowest, timed

JOIN_SECONDS = 60.0
GAP_BYTES = 64  # between two runs
WAYS: dict[str, tuning.Choose] = {
    "gather": lambda *_: Method.GATHER,
    "pack": lambda *_: Method.PACK,
    "model": tuning.method,
}


def strided_peer(case: dict[str, Any], emit: Callable[..., None]) -> None:
    """One of two. Times are those of a message one way: half of there and back."""
    comm = collcomm.join(case["address"], min_size=2, timeout=JOIN_SECONDS, transports=case["transports"])
    tuning.model()

    for nbytes, run in case["grid"]:
        call = _exchange(comm, nbytes, run)
        ways = {name: way for name, way in WAYS.items() if name != "gather" or nbytes // run <= tuning.MAX_GATHERED}
        counts, blocks = {}, {}
        for name, way in ways.items():
            comm._point.choose = way
            counts[name] = repetitions(call, case["block"], partial(slowest, comm))
            blocks[name] = partial(_in_this_way, comm._point, way, call, counts[name])
        times = alternate(blocks, case["rounds"], comm.barrier)
        if comm.rank == 0:
            chosen = [tuning.method(nbytes, nbytes // run, direction).value for direction in Direction]
            halves = {name: [took / 2 for took in found] for name, found in times.items()}
            emit(event="times", nbytes=nbytes, run=run, chosen=chosen, times=halves)
    comm.barrier()
    comm.leave()


def _exchange(comm: collcomm.Communicator, nbytes: int, run: int) -> Callable[[], None]:
    """A message there and back. Raises AssertionError when something else comes."""
    other, table = 1 - comm.rank, np.zeros((nbytes // run, run + GAP_BYTES), np.uint8)
    columns = table[:, :run]
    if comm.rank == 0:
        columns[:] = np.random.default_rng(run).integers(0, 256, columns.shape, np.uint8)
    kept = columns.copy()

    def exchange() -> None:
        if comm.rank == 0:
            comm.send(columns, other)
            comm.recv(columns, other)
        else:
            comm.recv(columns, other)
            comm.send(columns, other)

    exchange()
    assert comm.rank or (columns == kept).all()
    assert columns.any() and not table[:, run:].any()
    return exchange


def _in_this_way(point: PointToPoint, way: tuning.Choose, call: Callable[[], None], count: int) -> list[float]:
    point.choose = way
    return timed(call, count)
