"""All peers on one clock: when something happened at one, in the time of the others.

Each dump says what the peer's wall clock and its monotonic clock were at one moment. Wall clocks are as far apart as time service
leaves them (a millisecond in a data centre, many at home), so that is only the beginning. All members leave the commit round
of an operation within about one round trip, whatever the operation was: so the median, over the operations that two peers have
both committed, of the difference of their times of the commit is how far their clocks are apart. Where they have many of them
over a minute and more, medians of the first and of the last third give the drift, too.

Accuracy: a peer that always leaves the round later than another, by its place in it or because its way back is longer, is taken
for that much too early: at most the latency one way between the two, some tens of microseconds in one place. Peers without
common operations are put side by side by their wall clocks, corrected by ``offset`` where a dump says how far the
coordinator's was ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from .dump import Dump

Key = tuple[int, int, int]
LEAST_COMMON = 3  # fewer operations say less than a wall clock
DRIFT_SECONDS = 60.0
DRIFT_COMMON = 30
MOST_DRIFT = 1e-3  # seconds a second: no clock is that bad


@dataclass(frozen=True)
class PeerClock:
    """``time(t)``: the common time, in seconds since 1970, of the moment ``t`` of the peer's monotonic clock. ``common``:
    operations by which it was set; 0: by the wall clock alone."""

    shift: float
    drift: float = 0.0
    since: float = 0.0
    common: int = 0

    def time(self, moment: float) -> float:
        return moment + self.shift + self.drift * (moment - self.since)

    def times(self, moments: Sequence[float]) -> list[float]:
        """Of many moments."""
        many = np.array(moments, dtype=float)
        found: list[float] = (many + self.shift + self.drift * (many - self.since)).tolist()
        return found


def clocks_of(dumps: Sequence[Dump]) -> list[PeerClock]:
    """In the order of ``dumps``. The peer with most operations has its wall clock believed; the others are set by it, or by one
    that is, over as few steps as there are common operations for."""
    commits = [_commits(dump) for dump in dumps]
    by_wall = [PeerClock(dump.wall - dump.monotonic + (dump.header.offset or 0.0)) for dump in dumps]
    found: dict[int, PeerClock] = {}
    for first in sorted(range(len(dumps)), key=lambda number: -len(commits[number])):
        if first in found:
            continue
        found[first] = by_wall[first]
        reached = [first]
        for known in reached:  # which grows meanwhile
            for other in [number for number in range(len(dumps)) if number not in found]:
                clock = _set(commits[other], commits[known], found[known])
                if clock is not None:
                    found[other] = clock
                    reached.append(other)
    return [found[number] for number in range(len(dumps))]


def _commits(dump: Dump) -> dict[Key, float]:
    return {(one.gid, one.epoch, one.seq): one.commit for one in dump.operations if one.commit > 0.0}


def _set(mine: Mapping[Key, float], theirs: Mapping[Key, float], clock: PeerClock) -> PeerClock | None:
    """A clock for ``mine``, by ``theirs``, whose is ``clock``; None if they have too little in common."""
    keys = sorted(mine.keys() & theirs.keys(), key=mine.__getitem__)
    if len(keys) < LEAST_COMMON:
        return None
    times = [mine[key] for key in keys]
    ahead = [other - own for other, own in zip(clock.times([theirs[key] for key in keys]), times, strict=True)]
    third = len(keys) // 3
    if len(keys) < DRIFT_COMMON or times[-1] - times[0] < DRIFT_SECONDS:
        return PeerClock(median(ahead), common=len(keys))
    early, late = median(times[:third]), median(times[-third:])
    before, after = median(ahead[:third]), median(ahead[-third:])
    drift = (after - before) / (late - early) if late > early else 0.0
    if abs(drift) > MOST_DRIFT:
        return PeerClock(median(ahead), common=len(keys))
    return PeerClock(before, drift, early, len(keys))
