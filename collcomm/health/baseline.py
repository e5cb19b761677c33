"""What is usual: the median of a window and the spread about it, robust against a few values that are anything.

Median and median absolute deviation (MAD) bear up to half of the window being wrong; a mean and a variance bear none.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from statistics import median

WINDOW = 64  # values that are remembered
WARM = 8  # values before anything can be called unusual
SIGMA = 1.4826  # of a normal distribution, in MADs


class Baseline:
    """Feed it with `learn`; while something is found to be wrong, do not. ``skip``: values at the beginning that do not count."""

    def __init__(self, skip: int = 0, window: int = WINDOW):
        self._values: deque[float] = deque(maxlen=window)
        self._ordered: list[float] = []  # the same: medians are asked for at every operation
        self._skip = skip

    def learn(self, value: float) -> None:
        if self._skip:
            self._skip -= 1
            return
        if len(self._values) == self._values.maxlen:
            self._ordered.remove(self._values[0])
        self._values.append(value)
        insort(self._ordered, value)

    @property
    def warm(self) -> bool:
        return len(self._values) >= WARM

    @property
    def median(self) -> float:
        """0.0 before there is anything."""
        ordered, half = self._ordered, len(self._ordered) // 2
        if len(ordered) % 2:
            return ordered[half]
        return (ordered[half - 1] + ordered[half]) / 2 if ordered else 0.0

    @property
    def spread(self) -> float:
        """As a standard deviation."""
        usual = self.median
        return SIGMA * median(abs(value - usual) for value in self._values) if self._values else 0.0

    @property
    def highest(self) -> float:
        """The highest value but a few: the 95th percentile."""
        ordered = self._ordered
        return ordered[int(0.95 * (len(ordered) - 1))] if ordered else 0.0


class Sustained:
    """Whether something has held in ``least`` of the last ``of`` looks, and then whether it is over: it has held in at most
    ``few`` of them since. Single outliers never pass, however large."""

    def __init__(self, least: int, of: int, few: int = 1):
        if not 0 <= few < least <= of:
            raise ValueError(f"few < least <= of must hold, not {few}, {least}, {of}")
        self._looks: deque[bool] = deque(maxlen=of)
        self._least, self._few = least, few
        self.holds = False

    def look(self, deviates: bool) -> bool:
        """Returns whether that has changed `holds`."""
        before = self.holds
        self._looks.append(deviates)
        count = sum(self._looks)
        if not before and count >= self._least:
            self.holds = True
        elif before and len(self._looks) == self._looks.maxlen and count <= self._few:
            self.holds = False
        return self.holds != before

    def forget(self) -> None:
        self._looks.clear()
        self.holds = False
