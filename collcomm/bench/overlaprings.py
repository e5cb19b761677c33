"""Rings of `collcomm bench overlap`: blocks that go round while each rank computes on the one that it has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import collcomm

Array = np.ndarray[Any, Any]
Ways = dict[str, Callable[[], Any]]
Compute = Callable[[float], None]  # for a share of what all communication takes
BLOCK_BYTES = 1 << 20


def around(comm: collcomm.Communicator, compute: Compute, both_ways: bool) -> Ways:
    """A block's computation takes as long as a step, on average."""
    own = np.full(BLOCK_BYTES // 4, float(comm.rank + 1), np.float32)
    ring = comm.ring(both_ways)
    share = 1 / max(1, comm.size // 2 if both_ways else comm.size - 1)

    def serial() -> Array:
        came = [block.copy() for _, block in ring.around(own)]
        total = np.zeros_like(own)
        for block in came:
            compute(share)
            total += block
        return total

    def overlapped() -> Array:
        total = np.zeros_like(own)
        for _, block in ring.around(own):
            compute(share)
            total += block
        return total

    return {
        "computation": lambda: compute(share * comm.size),
        "communication": lambda: [None for _ in ring.around(own)],
        "serial": serial,
        "overlapped": overlapped,
    }


def there_and_back(comm: collcomm.Communicator, compute: Compute) -> Ways:
    """Results are as large as blocks."""
    own = np.full(BLOCK_BYTES // 4, float(comm.rank + 1), np.float32)
    ring = comm.ring()
    share = 1 / max(1, comm.size - 1)

    def visited(work: Callable[[int, Array], Array]) -> Array:
        total = np.zeros_like(own)
        for _, result in ring.visit(own, work):
            total += result
        return total

    def serial() -> Array:
        total = visited(lambda owner, block: block * 2)
        compute(share * comm.size)
        return total

    def work(owner: int, block: Array) -> Array:
        compute(share)
        return block * 2

    return {
        "computation": lambda: compute(share * comm.size),
        "communication": lambda: visited(lambda owner, block: block * 2),
        "serial": serial,
        "overlapped": lambda: visited(work),
    }


RINGS: dict[str, Callable[[collcomm.Communicator, Compute], Ways]] = {
    "ring, one way": partial(around, both_ways=False),
    "ring, both ways": partial(around, both_ways=True),
    "ring, results straight back": there_and_back,
}
