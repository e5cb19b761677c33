"""The GPU of a bench: arrays there, its name, and what its memory allows."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from ..engine.group import make_device_plan
from ..engine.request import request
from ..errors import UnsupportedTransport
from ..transports.cuda_ipc import find_device

COPY_BYTES = 1 << 28
COPIES = 20


def why_no_gpu() -> str:
    """Why there is nothing to measure; "" when there is."""
    try:
        find_device()
    except UnsupportedTransport as error:
        return str(error)
    return ""


def cupy() -> Any:
    import cupy

    return cupy


def gpu_facts() -> dict[str, Any]:
    """The name of the GPU, and how many bytes a second a copy within its memory reads and writes."""
    xp = cupy()
    source, target = xp.ones(COPY_BYTES, xp.uint8), xp.empty(COPY_BYTES, xp.uint8)
    seconds = []
    for _ in range(COPIES):
        start, end = xp.cuda.Event(), xp.cuda.Event()
        start.record()
        target[:] = source
        end.record()
        end.synchronize()
        seconds.append(xp.cuda.get_elapsed_time(start, end) / 1e3)
    name = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["name"].decode()
    return {"gpu": name, "copy_bandwidth": 2 * COPY_BYTES / statistics.median(seconds)}


def moved(n: int, nbytes: int, dtype: np.dtype[Any]) -> int:
    """Bytes that all ranks of an all_reduce read and write together, on one GPU; keeping an input in place is not counted."""
    asked = request("all_reduce", dtype, nbytes // dtype.itemsize, op="sum")
    plans = [make_device_plan(asked, range(n), rank, False) for rank in range(n)]
    return sum((len(move.sources) + 1) * move.nbytes for plan in plans for move in plan.moves)
