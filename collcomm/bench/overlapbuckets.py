"""Buckets and priorities of `collcomm bench overlap`: a step whose gradients are reduced as they get ready, and what is urgent
behind what is large."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import collcomm

from ..overlap import Buckets, PriorityScheduler
from .overlaprings import Computation, Ways

Array = np.ndarray[Any, Any]
GRADIENTS = 32
NBYTES = 4 << 20  # of all gradients, and of what is large
URGENT_BYTES = 64 << 10


def bucketed(comm: collcomm.Communicator, work: Computation) -> Ways:
    """A backward pass makes gradients one by one, from the last to the first; each is a bucket."""
    size = NBYTES // 4 // GRADIENTS
    names = [f"layer {index}" for index in range(GRADIENTS)]
    buckets = Buckets(comm, {name: np.empty(size, np.float32) for name in names}, bucket_bytes=4 * size, op="sum")
    x = np.empty((GRADIENTS, size), np.float32)

    def overlapped() -> Array:
        for name in reversed(names):
            work.part(1 / GRADIENTS)
            buckets[name][:] = comm.rank + 1
            buckets.ready(name)
        found = buckets.finish()
        return np.stack([found[name] for name in names])

    def serial() -> Array:
        for gradient in reversed(x):
            work.part(1 / GRADIENTS)
            gradient[:] = comm.rank + 1
        comm.all_reduce(x, out=x)
        return x

    return {
        "computation": lambda: work.part(1.0),
        "communication": lambda: comm.all_reduce(x, out=x),
        "serial": serial,
        "overlapped": overlapped,
    }


def urgent(comm: collcomm.Communicator) -> dict[str, Callable[[], list[float]]]:
    """Seconds until a small reduction is there that is wanted while a large one is on its way."""
    large, small = np.ones(NBYTES // 4, np.float32), np.ones(URGENT_BYTES // 4, np.float32)
    scheduler = PriorityScheduler(comm)

    def in_order() -> list[float]:
        return _seconds(lambda x, priority: comm.all_reduce(x, out=x, async_op=True))

    def by_priority() -> list[float]:
        return _seconds(lambda x, priority: scheduler.all_reduce(x, priority=priority))

    def _seconds(reduce: Callable[[Array, int], Any]) -> list[float]:
        comm.barrier()
        going = reduce(large, 1)
        time.sleep(0.01)
        began = time.perf_counter()
        reduce(small, 0).result()
        took = time.perf_counter() - began
        going.result()
        return [took]

    return {"in order": in_order, "by priority": by_priority}
