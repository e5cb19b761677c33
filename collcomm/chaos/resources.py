"""Memory and descriptors of processes over time, from /proc."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
WARM_UP_SAMPLES = 5  # imports and first connections
ENOUGH_SAMPLES = 20


def sample(pid: int) -> tuple[int, int] | None:
    """(resident bytes, open descriptors) of a process; None when it is gone."""
    place = Path("/proc") / str(pid)
    try:
        pages = int((place / "statm").read_text().split()[1])
        return pages * PAGE_BYTES, len(os.listdir(place / "fd"))
    except (OSError, IndexError, ValueError):
        return None


class Resources:
    """Samples by name of process."""

    def __init__(self) -> None:
        self.samples: dict[str, list[tuple[float, int, int]]] = {}

    def take(self, name: str, pid: int, now: float) -> None:
        found = sample(pid)
        if found is not None:
            self.samples.setdefault(name, []).append((now, *found))

    def growth(self) -> dict[str, dict[str, float]]:
        """Of those that lived long enough: medians of the first and last third, after warming up."""
        found = {}
        for name, samples in self.samples.items():
            settled = samples[WARM_UP_SAMPLES:]
            if len(settled) < ENOUGH_SAMPLES:
                continue
            third = len(settled) // 3
            early, late = settled[:third], settled[-third:]
            found[name] = {
                "seconds": settled[-1][0] - settled[0][0],
                "rss_early": statistics.median(rss for _, rss, _ in early),
                "rss_late": statistics.median(rss for _, rss, _ in late),
                "descriptors_early": statistics.median(count for *_, count in early),
                "descriptors_late": statistics.median(count for *_, count in late),
                "descriptors_most": max(count for *_, count in settled),
            }
        return found
