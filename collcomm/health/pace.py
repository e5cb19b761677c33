"""Whether operations take longer than they usually do: a slow link that holds nothing up is no finding."""

from __future__ import annotations

from collections import deque
from statistics import median

from .baseline import Baseline

FACTOR = 1.4
RECENT = 8  # operations of a class
SKIP = 5
LASTS_SECONDS = 5.0  # after a class has been slow: it may be called seldom
MOST_CLASSES = 4096


class Pace:
    """Feed it with how long each operation took at the member that was in it longest."""

    def __init__(self) -> None:
        self._usual: dict[tuple[str, int], Baseline] = {}
        self._recent: dict[tuple[str, int], deque[float]] = {}
        self._slow_at = float("-inf")

    def note(self, now: float, operation: tuple[str, int], took: float) -> None:
        if operation not in self._usual and len(self._usual) >= MOST_CLASSES:
            self._usual.clear()
            self._recent.clear()
        usual = self._usual.setdefault(operation, Baseline(SKIP))
        recent = self._recent.setdefault(operation, deque(maxlen=RECENT))
        recent.append(took)
        slow = usual.warm and len(recent) == RECENT and median(recent) > FACTOR * usual.median
        if slow:
            self._slow_at = now
        if not (usual.warm and took > FACTOR * usual.median):
            usual.learn(took)

    def suffers(self, now: float) -> bool:
        """Whether operations of any class are slow, or were just now."""
        return now - self._slow_at < LASTS_SECONDS

    def view_changed(self) -> None:
        """Other members, other times."""
        self._usual.clear()
        self._recent.clear()
        self._slow_at = float("-inf")
