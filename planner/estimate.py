"""The rate of a link from the arrival of a train of bytes, and how long a train has to be.

The beginning of a train says little: a shaper lets its token bucket through at full speed, and TCP's slow start falls short of
the link for some round trips. So the rate is the slope of the last part only, from where both half of the time and half of
the bytes are over: a full bucket comes early in time, a slow start brings its bytes late. A train ends when the two halves
of that part agree.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

AGREEMENT = 0.15  # between the two halves of the last part
LEAST_PART_BYTES = 1 << 15  # in the last part; less is a handful of packets
STEADY_PART_BYTES = 1 << 18  # before a rate can be called steady: bytes arrive in lumps of 64 KiB
LEAST_PART = 3  # of the shortest train: two round trips, see `LONG_TRIPS`
MOST_SAMPLES = 512
FEW_SAMPLES = 8
CONTRADICTION = 4.0  # two ends that differ by more do not speak of the same train

LONG_SECONDS = 2.5e-3  # one way: beyond that, round trips bound what one stream reaches in a short train
LOCAL_SECONDS = (0.010, 0.060)  # of a train, at least and at most if enough came
SLOW_SECONDS = 0.5  # at most if little came
LONG_TRIPS = (6, 16)  # round trips of a train on a long link
MOST_LONG_SECONDS = 2.0
BUSY_SECONDS = 0.1  # with `DUTY`: a pause of 1.9 s ...
BUSY_TRIPS = 8  # ... but so many round trips in any case: in the first few a train only gets under way
LOCAL_BYTES = 32 << 20
LONG_BYTES = 256 << 20
DUTY = 0.05  # of the time, while operations run

GAIN = 1.25  # more streams are worth it if they bring that much
STREAMS = (1, 2, 4, 8)  # that are tried on a long link
NEAR_STREAMS = 8  # on a short one: enough to meet most paths of equal cost, where there are several ...
NEAR_GAIN = 1.35  # ... which then brings that much over both directions; less is noise


@dataclass(frozen=True)
class TrainBudget:
    """``least``, ``enough``: seconds after which a train may end when its rate is steady, or in any case; ``most``: although
    little came; ``nbytes``: at most; ``in_flight``: bytes on the way at a time, so that a slow link's queue is soon empty
    again."""

    least: float
    enough: float
    most: float
    nbytes: int
    in_flight: int


def train_budget(latency: float, busy: bool) -> TrainBudget:
    """Of a link with ``latency`` seconds one way; ``busy``: operations are running on it."""
    trip = 2 * latency
    in_flight = (512 << 10) + int(trip * 2.5e9)  # what 20 Gbit/s need
    if latency < LONG_SECONDS:
        least, enough = LOCAL_SECONDS
        most, nbytes = SLOW_SECONDS, LOCAL_BYTES
    else:
        least = min(LONG_TRIPS[0] * trip, MOST_LONG_SECONDS)
        enough = most = min(max(SLOW_SECONDS, LONG_TRIPS[1] * trip), MOST_LONG_SECONDS)
        nbytes = LONG_BYTES
    if busy:
        bound = max(BUSY_SECONDS, min(BUSY_TRIPS * trip, MOST_LONG_SECONDS))
        least, enough, most = min(least, bound), min(enough, bound), min(most, bound)
    return TrainBudget(least, enough, most, nbytes, in_flight)


def pause_after(seconds: float, busy: bool) -> float:
    """Seconds for which the link is left alone after a train of ``seconds``."""
    return seconds * (1 / DUTY - 1) if busy else 0.0


def believed(told: float, seen: float) -> float:
    """The rate of a train for whoever sent it and saw ``seen``, when its receiver says ``told``: the receiver is nearer, but
    may not exaggerate."""
    return seen if seen > 0 and told > CONTRADICTION * seen else told


def worth_it(before: float, after: float) -> bool:
    """Whether more streams have brought enough."""
    return after > GAIN * before


def fewest_streams(by_streams: Sequence[tuple[int, float]], gain: float = GAIN) -> tuple[int, float]:
    """Of (streams, bytes/s) in ascending order: the last one that was worth its streams, ``gain`` times the one before."""
    best = by_streams[0]
    for streams, rate in by_streams[1:]:
        if rate > gain * best[1]:
            best = (streams, rate)
    return best


class RateEstimate:
    """Feed `add` with how many bytes have come until when; ``least``, ``enough``: as in `TrainBudget`."""

    def __init__(self, least: float, enough: float):
        self._least = least
        self._enough = enough
        self._times: list[float] = []
        self._totals: list[int] = []
        self._spacing = 0.0

    def add(self, now: float, total: int) -> None:
        """``total``: bytes since the beginning, which never falls."""
        times, totals = self._times, self._totals
        if len(times) > 2 and now - times[-2] < self._spacing:  # the last one always stands
            times[-1], totals[-1] = now, total
            return
        times.append(now)
        totals.append(total)
        if len(times) > MOST_SAMPLES:
            span = times[-1] - times[0]
            self._spacing = 4 * span / MOST_SAMPLES
            self._times, self._totals = times[:-1:2] + times[-1:], totals[:-1:2] + totals[-1:]

    @property
    def seconds(self) -> float:
        return self._times[-1] - self._times[0] if self._times else 0.0

    @property
    def rate(self) -> float:
        """Bytes/s in the last part; 0.0 if nothing can be said."""
        if len(self._times) < 2:
            return 0.0
        mark, end = self._mark(), len(self._times) - 1
        if end - mark >= FEW_SAMPLES:  # the very end may have been noticed late
            return max(self._slope(mark, end), self._slope(mark, end - 1))
        return self._slope(mark, end) or self._slope(0, end)

    @property
    def settled(self) -> bool:
        """Whether more would tell no more."""
        seconds, end = self.seconds, len(self._times) - 1
        if seconds < self._least or end < 4:
            return False
        mark = self._mark()
        came = self._totals[end] - self._totals[mark]
        if came < (LEAST_PART_BYTES if seconds >= self._enough else STEADY_PART_BYTES):
            return False
        part = self._times[end] - self._times[mark]
        if part < self._least / LEAST_PART and seconds < self._enough:
            return False  # within one round trip a slow start is steady, too
        if seconds >= self._enough:
            return True
        middle = bisect_left(self._times, (self._times[mark] + self._times[end]) / 2)
        first, second = self._slope(mark, middle), self._slope(middle, end)
        return min(first, second) > 0 and max(first, second) <= (1 + AGREEMENT) * min(first, second)

    def _mark(self) -> int:
        """Where the last part begins."""
        by_time = bisect_left(self._times, (self._times[0] + self._times[-1]) / 2)
        by_bytes = bisect_left(self._totals, (self._totals[0] + self._totals[-1]) / 2)
        return max(by_time, by_bytes)

    def _slope(self, begin: int, end: int) -> float:
        seconds = self._times[end] - self._times[begin]
        return (self._totals[end] - self._totals[begin]) / seconds if seconds > 0 else 0.0
