"""Rings of `collcomm bench overlap`: blocks that go round while each rank computes on the one that it has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

import collcomm

Array = np.ndarray[Any, Any]
Ways = dict[str, Callable[[], Any]]
BLOCK_BYTES = 1 << 20


class Computation(Protocol):
    def part(self, share: float) -> None:
        """For a share of the time that all communication takes."""


def around(comm: collcomm.Communicator, work: Computation, both_ways: bool) -> Ways:
    """A block's computation takes as long as a step, on average."""
    own = np.full(BLOCK_BYTES // 4, float(comm.rank + 1), np.float32)
    ring = comm.ring(both_ways)
    share = 1 / max(1, comm.size // 2 if both_ways else comm.size - 1)

    def serial() -> Array:
        came = [block.copy() for _, block in ring.around(own)]
        total = np.zeros_like(own)
        for block in came:
            work.part(share)
            total += block
        return total

    def overlapped() -> Array:
        total = np.zeros_like(own)
        for _, block in ring.around(own):
            work.part(share)
            total += block
        return total

    return {
        "computation": lambda: work.part(share * comm.size),
        "communication": lambda: [None for _ in ring.around(own)],
        "serial": serial,
        "overlapped": overlapped,
    }


def there_and_back(comm: collcomm.Communicator, work: Computation) -> Ways:
    """Results are as large as blocks."""
    own = np.full(BLOCK_BYTES // 4, float(comm.rank + 1), np.float32)
    ring = comm.ring()
    share = 1 / max(1, comm.size - 1)

    def visited(make: Callable[[int, Array], Array]) -> Array:
        total = np.zeros_like(own)
        for _, result in ring.visit(own, make):
            total += result
        return total

    def serial() -> Array:
        total = visited(lambda owner, block: block * 2)
        work.part(share * comm.size)
        return total

    def late(owner: int, block: Array) -> Array:
        work.part(share)
        return block * 2

    return {
        "computation": lambda: work.part(share * comm.size),
        "communication": lambda: visited(lambda owner, block: block * 2),
        "serial": serial,
        "overlapped": lambda: visited(late),
    }


RINGS: dict[str, Callable[[collcomm.Communicator, Computation], Ways]] = {
    "ring, one way": partial(around, both_ways=False),
    "ring, both ways": partial(around, both_ways=True),
    "ring, results straight back": there_and_back,
}
