"""Uneven machines: how many local steps each peer takes so that all arrive together.

FedCompass (arXiv 2309.14675) keeps a peer's speed as an exponential average and gives it between 20 and 100 local steps, so that
the slow arrive when the fast do. What is computed from equal speeds is equal at all peers: plain arithmetic, in order of ids.

Reports are not believed beyond bounds: times and counts that make no sense are left out, one report changes an average by a
factor of at most 8, and a speed counts as no more than 16 times the group's median, no less than a sixteenth of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

MOMENTUM = 0.9  # what the average keeps of itself with each report
LEAST_STEPS, MOST_STEPS = 20, 100  # FedCompass's bounds
_SPEEDS = (1e-6, 1e6)  # steps/s of anything that trains
_SURPRISE = 8.0
_BEYOND_MEDIAN = 16.0


class Speeds:
    """The speeds of members (ids), steps/s, as exponential averages of what was reported."""

    def __init__(self, momentum: float = MOMENTUM):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be from 0 to less than 1, not {momentum!r}")
        self._momentum = momentum
        self._average: dict[int, float] = {}

    def observe(self, member: int, steps: float, seconds: float) -> bool:
        """``member`` took ``seconds`` for ``steps`` local steps. Returns whether that made sense; if not, nothing changes."""
        if not (0 < steps < math.inf and 0 < seconds < math.inf):
            return False
        seen = _between(_SPEEDS[0], steps / seconds, _SPEEDS[1])
        old = self._average.get(member)
        if old is not None:
            seen = _between(old / _SURPRISE, seen, old * _SURPRISE)
            seen = self._momentum * old + (1 - self._momentum) * seen
        self._average[member] = seen
        return True

    def of(self, member: int) -> float:
        """Steps/s, or NaN if nothing is known of it."""
        return self._average.get(member, math.nan)

    def keep(self, members: Collection[int]) -> None:
        """Forget all others: they are gone."""
        self._average = {member: speed for member, speed in self._average.items() if member in members}

    def among(self, members: Collection[int]) -> dict[int, float]:
        """The speed of each of ``members``, bounded; a newcomer's is the median."""
        return bounded({member: self.of(member) for member in members})


def bounded(speeds: Mapping[int, float]) -> dict[int, float]:
    """Speeds that can be planned with, by rising member: what makes no sense becomes the median, what is far from it nearer."""
    sane = sorted(speed for speed in speeds.values() if 0 < speed < math.inf)
    median = _between(_SPEEDS[0], sane[(len(sane) - 1) // 2], _SPEEDS[1]) if sane else 1.0
    return {
        member: _between(median / _BEYOND_MEDIAN, speed, median * _BEYOND_MEDIAN) if 0 < speed < math.inf else median
        for member, speed in sorted(speeds.items())
    }


def local_steps(speeds: Mapping[int, float], least: int = LEAST_STEPS, most: int = MOST_STEPS) -> dict[int, int]:
    """Local steps for each member, so that all take equally long: the fastest takes ``most``, nobody less than ``least``.

    Where speeds differ by no more than most / least, all arrive within 1 / least of the round.

    :raises ValueError: bounds that are not 1 <= least <= most.
    """
    if not 1 <= least <= most:
        raise ValueError(f"steps must be bounded by 1 <= least <= most, not by {least} and {most}")
    known = bounded(speeds)
    if not known:
        return {}
    seconds = most / max(known.values())
    return {member: int(_between(least, math.floor(speed * seconds + 0.5), most)) for member, speed in known.items()}


def _between(least: float, value: float, most: float) -> float:
    return min(most, max(least, value))
