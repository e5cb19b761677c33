"""Which algorithm for which collective, size and group: the cheapest by the alpha-beta-gamma model (Hockney 1994; Thakur,
Rabenseifner and Gropp 2005) over links that are all alike."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

SEGMENT_BYTES = 1 << 18  # a piece that stays in cache between being received and being sent on
MAX_SEGMENTS = 4096


@dataclass(frozen=True)
class Links:
    """``latency``: seconds per message; ``bandwidth``: bytes/s of one link; ``compute``: bytes/s of reducing."""

    latency: float = 20e-6
    bandwidth: float = 1.5e9
    compute: float = 8e9


@dataclass(frozen=True)
class Choice:
    """``frame_bytes``: in which messages travel; 0: the engine's own size."""

    algorithm: str
    parameters: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    frame_bytes: int = 0


LOOPBACK = Links()
_Cost = Callable[[int, float, Links], float]


def _rounds(n: int) -> int:
    return math.ceil(math.log2(n)) if n > 1 else 0


def _per_byte(links: Links) -> float:
    return 1 / links.bandwidth


def _ring(moves: int, sums: int) -> _Cost:
    def cost(n: int, nbytes: float, links: Links) -> float:
        part = nbytes / n
        return (n - 1) * (moves * (links.latency + part * _per_byte(links)) + sums * part / links.compute)

    return cost


def _doubling(n: int, nbytes: float, links: Links) -> float:
    return (_rounds(n) + 2 * (n & (n - 1) != 0)) * (links.latency + nbytes * _per_byte(links) + nbytes / links.compute)


def _star(n: int, nbytes: float, links: Links) -> float:
    return 2 * links.latency + 2 * (n - 1) * (nbytes * _per_byte(links) + 5e-6) + (n - 1) * nbytes / links.compute


def _tree(n: int, nbytes: float, links: Links) -> float:
    return _rounds(n) * (links.latency + nbytes * _per_byte(links))


def _chain(n: int, nbytes: float, links: Links) -> float:
    piece = min(nbytes, SEGMENT_BYTES)
    return (n - 1) * (links.latency + piece * _per_byte(links)) + nbytes * _per_byte(links)


def _all_gather_doubling(n: int, nbytes: float, links: Links) -> float:
    return _rounds(n) * links.latency + (n - 1) / n * nbytes * _per_byte(links) * 1.2  # blocks cross the group


def _direct(n: int, nbytes: float, links: Links) -> float:
    return links.latency + (n - 1) * 8e-6 + (n - 1) / n * nbytes * _per_byte(links) * 1.2


def _rooted_tree(n: int, nbytes: float, links: Links) -> float:
    return _rounds(n) * links.latency + 2 * nbytes * _per_byte(links)


def _rooted_star(n: int, nbytes: float, links: Links) -> float:
    return links.latency + (n - 1) * 8e-6 + nbytes * _per_byte(links)


COSTS: dict[str, dict[str, _Cost]] = {
    "all_reduce": {"doubling": _doubling, "star": _star, "ring": _ring(2, 1)},
    "reduce_scatter": {"direct": _direct, "ring": _ring(1, 1)},
    "all_gather": {"doubling": _all_gather_doubling, "ring": _ring(1, 0)},
    "all_to_all": {"direct": _direct},
    "broadcast": {"tree": _tree, "ring": _chain},
    "reduce": {"tree": _tree, "star": _star},
    "gather": {"tree": _rooted_tree, "star": _rooted_star},
    "scatter": {"tree": _rooted_tree, "star": _rooted_star},
}


# Through windows, what differs is how often each byte is read, and how many signals there are to wait for.
SIGNAL_SECONDS = 3e-6
MEMORY_BANDWIDTH = 14e9  # of operands, in cache
_WINDOWS: dict[str, dict[str, Callable[[int, float], float]]] = {
    "all_reduce": {
        "oneshot": lambda n, nbytes: (n - 1) * SIGNAL_SECONDS + n * nbytes / MEMORY_BANDWIDTH,
        "windows": lambda n, nbytes: 2 * (n - 1) * SIGNAL_SECONDS + 1.6 * nbytes / MEMORY_BANDWIDTH,
    },
    **{
        kind: {"windows": lambda n, nbytes: (n - 1) * SIGNAL_SECONDS + 2 * nbytes / MEMORY_BANDWIDTH}
        for kind in ("reduce_scatter", "all_gather", "all_to_all", "broadcast", "reduce", "gather", "scatter")
    },
}


def choose_through_windows(kind: str, n: int, nbytes: int) -> Choice:
    """As `choose`, for ranks that share memory."""
    seconds, algorithm = min((cost(n, nbytes), name) for name, cost in _WINDOWS[kind].items())
    return Choice(algorithm, {}, seconds)


# Windows on devices: a signal waits for the device, and all ranks may share one device's memory. Bytes are counted once for
# reading and once for writing. The figures are guesses: nothing has been measured on a device.
DEVICE_SIGNAL_SECONDS = 25e-6
DEVICE_BANDWIDTH = 3e12


def choose_on_devices(kind: str, n: int, nbytes: int) -> Choice:
    """As `choose`, for ranks that share a device, or reach each other's."""
    if kind != "all_reduce":
        return Choice("windows")
    moved = n * nbytes / DEVICE_BANDWIDTH  # if each rank moves its bytes once
    oneshot = DEVICE_SIGNAL_SECONDS + (2 + n + 1) * moved
    windows = 2 * DEVICE_SIGNAL_SECONDS + (2 * (n - 1) / n + 1 + 1 / n + 2) * moved
    return Choice("oneshot", {}, oneshot) if oneshot < windows else Choice("windows", {}, windows)


def segments(nbytes: float) -> int:
    """Into how many parts a piece is cut, so that each stays in cache."""
    return max(1, min(MAX_SEGMENTS, math.ceil(nbytes / SEGMENT_BYTES)))


def choose(kind: str, n: int, nbytes: int, links: Links = LOOPBACK, only: str = "") -> Choice:
    """The cheapest algorithm for ``nbytes`` (of the whole vector, or of all blocks together) among ``n`` ranks.

    ``only``: the one algorithm to look at. A pure function of its arguments: all ranks choose alike. Raises KeyError for an
    unknown kind.
    """
    seconds, algorithm = min((cost(n, nbytes, links), name) for name, cost in COSTS[kind].items() if only in ("", name))
    parameters = {}
    if algorithm == "ring" and kind in ("all_reduce", "broadcast"):
        pieces = n if kind == "all_reduce" else 1
        parameters["segments"] = segments(nbytes / pieces)
    return Choice(algorithm, parameters, seconds)
