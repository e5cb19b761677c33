"""What the traffic of a run itself tells of its links: keeps measured bandwidths current between two probes.

A sample counts only when the link was what the transfer waited for: the bytes acknowledged in the time in which some were on
their way, unless TCP marks the last as limited by the application (Cheng and Cardwell, delivery rate estimation, 2017). The
kernel's own rates are not used: they are those of a few packets, which a shaper lets through at once. Samples are averaged
exponentially with weight 0.9 on what was known, as FedCompass (2023) does with the speed of peers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..types import LinkRow
from .survey import MOST_BANDWIDTH

KEPT = 0.9  # of the average at each sample
LEAST_BYTES = 1 << 20  # of a sample
NEWS = 0.15  # a change of that share is told


class TrafficMeter:
    """Bandwidths that `start` from measured rows and follow the traffic."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, int], LinkRow] = {}
        self._rates: dict[tuple[int, int], float] = {}

    def start(self, row: LinkRow) -> None:
        """``row`` was measured, and is where the average goes on from."""
        key = (row.source, row.target)
        self._rows[key] = row
        self._rates[key] = row.bandwidth

    def observe(self, source: int, target: int, nbytes: int, rate: float, limited: bool) -> None:
        """``nbytes`` went at ``rate`` bytes/s; ``limited``: by something else than the link."""
        key = (source, target)
        if limited or nbytes < LEAST_BYTES or not math.isfinite(rate) or not 0 < rate <= MOST_BANDWIDTH:
            return
        if key in self._rates:
            self._rates[key] = KEPT * self._rates[key] + (1 - KEPT) * rate

    def news(self) -> list[LinkRow]:
        """The rows whose bandwidth has changed by `NEWS` since they were last told."""
        changed = []
        for key, row in self._rows.items():
            rate = self._rates[key]
            if abs(rate - row.bandwidth) > NEWS * row.bandwidth:
                self._rows[key] = LinkRow(*key, row.latency, rate, row.streams)
                changed.append(self._rows[key])
        return changed

    def keep_only(self, members: Sequence[int]) -> None:
        """Forget the links of all others."""
        keep = set(members)
        for key in [key for key in self._rows if not keep.issuperset(key)]:
            del self._rows[key], self._rates[key]
