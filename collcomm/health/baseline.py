"""What is usual, by median and MAD, and whether it has been departed from for good."""

from __future__ import annotations

from collections import deque
from statistics import median

MAD_TO_SPREAD = 1.4826  # of a bell shape: median absolute deviation to standard deviation
RENEW = 16  # values between two looks at a long history: a median moves little by them


class Baseline:
    """The median of the last ``history`` values and their spread. Up to half of them may be outliers. The first ``warmup`` do not
    count, and there is nothing usual before ``least`` have come. The spread is at least ``floor`` of the median, so that what
    happened to be very even for a while does not make sick what is a little less so."""

    __slots__ = ("_due", "_floor", "_least", "_skip", "_values", "assumable", "assumed", "median", "ready", "spread")

    def __init__(self, history: int, least: int, warmup: int, floor: float = 0.05):
        self._values: deque[float] = deque(maxlen=history)
        self._least = least
        self._skip = warmup
        self._floor = floor
        self._due = least  # so many values later, what is usual is looked at again
        self.median = 0.0
        self.spread = 0.0
        self.ready = False
        self.assumed = False  # what is usual is what something else tells
        self.assumable = True  # nothing that was assumed has turned out wrong

    def skip(self, count: int) -> None:
        """The next ``count`` values do not count."""
        self._skip = max(self._skip, count)

    def assume(self, value: float) -> None:
        """That ``value`` is usual, for something else tells so, until enough values have come."""
        self.median, self.spread, self.ready, self.assumed = value, self._floor * abs(value), True, True

    def add(self, value: float) -> None:
        if self._skip > 0:
            self._skip -= 1
            return
        self._values.append(value)
        self._due -= 1
        if not self._due:
            self._renew()

    def _renew(self) -> None:
        values = sorted(self._values)
        self.median = median(values)
        middle = self.median
        deviation = median([value - middle if value > middle else middle - value for value in values])
        self.spread = max(MAD_TO_SPREAD * deviation, self._floor * abs(middle))
        self._due = RENEW if len(values) >= 2 * self._least else 1
        self.ready, self.assumed = True, False

    def beyond(self, value: float, deviations: float) -> bool:
        """Whether ``value`` is above what is usual by more than so many spreads."""
        return self.ready and value > self.median + deviations * self.spread


class Watch:
    """One quantity of one member or link. ``departed`` once ``sustained`` of the last ``window`` values deviated and these weigh
    ``weight`` in all (seconds that they took, or operations that they are of), until no more than ``window - sustained`` do: a
    single value, or a burst of them, is no news.

    A value becomes part of what is usual only when the window has moved past it, and not at all while half of the window
    deviates. So what is usual never learns from the fault that is being judged by it."""

    __slots__ = (
        "_deviating",
        "_least_weight",
        "_recent",
        "_sustained",
        "_weight",
        "_window",
        "at",
        "departed",
        "since",
        "usual",
    )

    def __init__(self, usual: Baseline, window: int, sustained: int, weight: float = 0.0):
        self.usual = usual
        self.departed = False
        self.since = (0, 0)  # the operation of the first of the deviating values
        self.at = 0.0  # when the last value came
        self._recent: deque[tuple[float, bool, float]] = deque()
        self._window = window
        self._sustained = sustained
        self._least_weight = weight
        self._deviating = 0
        self._weight = 0.0  # of those that deviate

    def add(
        self, at: float, value: float, deviates: bool, weight: float = 0.0, since: tuple[int, int] = (0, 0)
    ) -> None:
        self.at = at
        if not self.usual.ready:
            self.usual.add(value)
            return
        recent = self._recent
        recent.append((value, deviates, weight))
        if not (deviates or self._deviating or self.departed):  # as nearly always
            if len(recent) > self._window:
                self.usual.add(recent.popleft()[0])
            return
        if deviates and not self._deviating:
            self.since = since
        self._deviating += deviates
        if deviates:
            self._weight += weight
        if len(recent) > self._window:
            self._leave(*recent.popleft())
        if self.departed:
            self.departed = self._deviating > self._window - self._sustained
        else:
            self.departed = self._deviating >= self._sustained and self._weight >= self._least_weight

    def _leave(self, value: float, deviated: bool, weight: float) -> None:
        self._deviating -= deviated
        if deviated:
            self._weight = self._weight - weight if self._deviating else 0.0
        if 2 * self._deviating < self._window and not self.departed:
            self.usual.add(value)

    @property
    def deviating(self) -> int:
        """How many of the last values did."""
        return self._deviating

    @property
    def is_plain(self) -> bool:
        """Whether at least the last two deviated, and weigh enough."""
        return self._deviating >= 2 and self._recent[-2][1] and self.warm and self._weight >= self._least_weight

    @property
    def looked_at(self) -> int:
        return len(self._recent)

    @property
    def warm(self) -> bool:
        """Whether the last value deviated."""
        return bool(self._recent) and self._recent[-1][1]

    @property
    def present(self) -> float:
        """The median of the deviating ones among the last values, or of all when none does."""
        values = [value for value, deviates, _ in self._recent if deviates] or [value for value, _, _ in self._recent]
        return median(values) if values else self.usual.median
