"""Sizes, repetition counts, and what is made of the times."""

from __future__ import annotations

import gc
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MAX_REPETITIONS = 1000
WARM_UP = 3

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> int:
    """ "64K" -> 65536. Raises ValueError."""
    match = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match or not int(match[1]):
        raise ValueError(f"{text!r} is not a size; write it like 4, 64K, 16M, 1G")
    return int(match[1]) * _UNITS[match[2].upper()]


def format_size(nbytes: int) -> str:
    for unit, letter in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:g} {letter}"
    return f"{nbytes} B"


def format_seconds(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} us"
    return f"{seconds * 1e3:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def timed(call: Callable[[], Any], count: int) -> list[float]:
    """Seconds that each of ``count`` calls took."""
    times = []
    call()  # what another library did in between has left the caches and the scheduler elsewhere
    for _ in range(count):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def slowest(comm: Any, seconds: float) -> float:
    """Of the ``seconds`` that the members of ``comm`` give, the most."""
    return float(comm.all_reduce(np.array([seconds]), op="max")[0])


def repetitions(call: Callable[[], Any], seconds: float, slowest: Callable[[float], float]) -> int:
    """How many calls fill a block of ``seconds``, measured by warming up. ``slowest`` makes of everybody's time the longest, so
    that the number is equal at all peers."""
    took = statistics.median([timed(call, WARM_UP) for _ in range(2)][-1])
    return int(min(MAX_REPETITIONS, max(2, seconds / slowest(took))))


@dataclass(frozen=True)
class Timing:
    """How a collective is timed. ``rounds``: blocks of about ``block`` seconds for each library and size; ``against``: names of
    those that are timed in between."""

    rounds: int = 5
    against: tuple[str, ...] = ()
    out_of_place: bool = False
    dtype: str = "float32"
    block: float = 0.4

    def case(self, kind: str, sizes: Sequence[int]) -> dict[str, Any]:
        """What the processes need to know. ``sizes``: bytes of the whole array."""
        return {"case": "collectives", "kind": kind, "sizes": list(sizes), **asdict(self)}


def alternate(
    blocks: Mapping[str, Callable[[], Sequence[float]]], rounds: int, meet: Callable[[], Any]
) -> dict[str, list[float]]:
    """The times of each block, one block after the other in ``rounds`` turns, without the garbage collector. ``meet`` waits
    for all processes."""
    times: dict[str, list[float]] = {who: [] for who in blocks}
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for who, block in blocks.items():
            meet()
            times[who] += block()
    gc.enable()
    return times


def quantile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(times: Sequence[float]) -> dict[str, float]:
    return {
        "median": statistics.median(times),
        "p99": quantile(times, 0.99),
        "min": min(times),
        "max": max(times),
        "count": len(times),
    }


def summaries(times: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    return {who: summary(found) for who, found in times.items()}


def bus_factor(kind: str, n: int) -> float:
    """Bytes that each link carries per byte of data, at best."""
    share = (n - 1) / n
    return {"all_reduce": 2 * share, "reduce_scatter": share, "all_gather": share, "all_to_all": share}.get(kind, 1.0)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    import numpy as np

    from .. import __version__

    torch = sys.modules.get("torch")
    return {
        "collcomm": __version__,
        **({"torch": torch.__version__} if torch is not None else {}),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
    }
