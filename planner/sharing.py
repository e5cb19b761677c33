"""How transfers that are under way together share what they pass.

`FairShares` gives every transfer its max-min fair rate by progressive filling (Bertsekas and Gallager, Data Networks, 1992,
section 6.5.2), worked out anew, whenever a transfer starts or ends, for those that are joined to it by shared resources.

`SharedClocks` is for thousands of transfers at once. A transfer advances at the equal share of its scarcest resource: capacity
over the number of transfers there. So each resource has a clock of its own, in bytes per transfer (the virtual time of processor
sharing; Zhang 1990), and a change costs the same however many are under way. Two things are approximate: a transfer held up
elsewhere leaves its part unused, and which resource is a transfer's scarcest is looked at again only after the number of
transfers has changed by a quarter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from typing import Protocol

Alarm = Callable[[float, int], int]  # (when, what for) -> a number by which the caller recognises the last one set
FOREVER = float("inf")
CLOSE = 1e-9  # relative; rates nearer than that are the same
REVIEW = 1.25  # change in the number of transfers after which clocks are compared again
GRAIN = 1e-3  # bytes; what ends within that of each other ends together


class Sharing(Protocol):
    """Transfers are known by the number of their channel; a channel has one at a time."""

    busy: list[float]  # seconds for which each resource had a transfer
    carried: list[float]  # bytes that have passed it

    def open(self, path: tuple[int, ...]) -> None:
        """The next channel passes ``path``."""

    def start(self, channel: int, nbytes: float, now: float) -> None: ...

    def due(self, what: int, number: int, now: float) -> Iterable[int]:
        """The channels whose transfers end with this alarm."""

    def settle(self, now: float) -> None:
        """All that begins or ends at this time has been said: set alarms."""

    def fail(self, resources: Iterable[int], now: float) -> None:
        """Nothing passes these any more."""


class FairShares:
    def __init__(self, capacities: Sequence[float], alarm: Alarm):
        count = len(capacities)
        self.busy = [0.0] * count
        self.carried = [0.0] * count
        self._capacities = list(capacities)
        self._alarm = alarm
        self._on: list[dict[int, None]] = [{} for _ in range(count)]  # channels under way, by resource; ordered
        self._since = [0.0] * count
        self._paths: list[tuple[int, ...]] = []
        self._size: list[float] = []
        self._left: list[float] = []
        self._rate: list[float] = []
        self._at: list[float] = []
        self._number: list[int] = []
        self._dirty: list[int] = []  # resources

    def open(self, path: tuple[int, ...]) -> None:
        self._paths.append(path)
        for column in (self._size, self._left, self._rate, self._at):
            column.append(0.0)
        self._number.append(-1)

    def start(self, channel: int, nbytes: float, now: float) -> None:
        path, on, capacities = self._paths[channel], self._on, self._capacities
        alone, rate = True, FOREVER
        for resource in path:
            others = on[resource]
            if others:
                alone = False
            else:
                self._since[resource] = now
            others[channel] = None
            if capacities[resource] < rate:
                rate = capacities[resource]
        self._size[channel] = self._left[channel] = nbytes
        self._at[channel] = now
        if alone:
            self._rate[channel] = rate
            self._number[channel] = self._alarm(now + nbytes / rate, channel) if rate > 0.0 else -1
        else:
            self._rate[channel] = 0.0
            self._number[channel] = -1
            self._dirty.append(path[0])

    def due(self, what: int, number: int, now: float) -> Iterable[int]:
        if self._number[what] != number:
            return ()
        nbytes, on, carried = self._size[what], self._on, self.carried
        for resource in self._paths[what]:
            others = on[resource]
            del others[what]
            carried[resource] += nbytes
            if others:
                self._dirty.append(resource)
            else:
                self.busy[resource] += now - self._since[resource]
        self._number[what] = -1
        return (what,)

    def settle(self, now: float) -> None:
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, []
        seen: set[int] = set()
        for first in dirty:
            if first not in seen and self._on[first]:
                resources = self._joined(first)
                seen.update(resources)
                self._fill(resources, now)

    def _joined(self, first: int) -> list[int]:
        """The resources that transfers join to ``first``."""
        found, reached, channels = [first], {first}, set[int]()
        for resource in found:
            for channel in self._on[resource]:
                if channel not in channels:
                    channels.add(channel)
                    for other in self._paths[channel]:
                        if other not in reached:
                            reached.add(other)
                            found.append(other)
        return found

    def _fill(self, resources: list[int], now: float) -> None:
        on, paths = self._on, self._paths
        room = {resource: self._capacities[resource] for resource in resources}
        waiting = {resource: len(on[resource]) for resource in resources}
        fixed: set[int] = set()
        while waiting:
            scarcest, share = -1, FOREVER
            for resource, count in waiting.items():
                if room[resource] < share * count:
                    scarcest, share = resource, room[resource] / count
            for channel in on[scarcest]:
                if channel in fixed:
                    continue
                fixed.add(channel)
                for resource in paths[channel]:
                    room[resource] = max(0.0, room[resource] - share)
                    if waiting[resource] == 1:
                        del waiting[resource]
                    else:
                        waiting[resource] -= 1
                self._change(channel, share, now)

    def _change(self, channel: int, rate: float, now: float) -> None:
        before = self._rate[channel]
        if abs(rate - before) <= CLOSE * before and self._number[channel] >= 0:
            return
        left = self._left[channel] = max(0.0, self._left[channel] - before * (now - self._at[channel]))
        self._at[channel] = now
        self._rate[channel] = rate
        self._number[channel] = self._alarm(now + left / rate, channel) if rate > 0.0 else -1

    def fail(self, resources: Iterable[int], now: float) -> None:
        for resource in resources:
            self._capacities[resource] = 0.0
            self._dirty.append(resource)


class SharedClocks:
    def __init__(self, capacities: Sequence[float], alarm: Alarm):
        count = len(capacities)
        self.busy = [0.0] * count
        self.carried = [0.0] * count
        self._capacities = list(capacities)
        self._alarm = alarm
        self._clock = [0.0] * count  # bytes that a transfer bound to the resource would have had
        self._at = [0.0] * count
        self._on: list[dict[int, None]] = [{} for _ in range(count)]
        self._reviewed = [0] * count  # transfers at the last comparison
        self._ends: list[list[tuple[float, int, int]]] = [[] for _ in range(count)]  # heap: clock, channel, version
        self._number = [-1] * count
        self._paths: list[tuple[int, ...]] = []
        self._size: list[float] = []
        self._end: list[float] = []
        self._bound: list[int] = []
        self._version: list[int] = []
        self._dirty: dict[int, None] = {}
        self._new: list[int] = []

    def open(self, path: tuple[int, ...]) -> None:
        self._paths.append(path)
        self._size.append(0.0)
        self._end.append(0.0)
        self._bound.append(-1)
        self._version.append(0)

    def _advance(self, resource: int, now: float) -> None:
        passed = now - self._at[resource]
        if passed > 0.0:
            count = len(self._on[resource])
            if count:
                self._clock[resource] += passed * self._capacities[resource] / count
                self.busy[resource] += passed
            self._at[resource] = now

    def start(self, channel: int, nbytes: float, now: float) -> None:
        for resource in self._paths[channel]:
            self._advance(resource, now)
            self._on[resource][channel] = None
            self._dirty[resource] = None
        self._size[channel] = nbytes
        self._bound[channel] = -1
        self._new.append(channel)

    def due(self, what: int, number: int, now: float) -> Iterable[int]:
        if self._number[what] != number:
            return ()
        self._number[what] = -1
        self._advance(what, now)
        ends, ended = self._ends[what], []
        limit = max(self._clock[what], self._first(what)) + GRAIN
        while ends and ends[0][0] <= limit:
            _, channel, version = heappop(ends)
            if version == self._version[channel]:
                ended.append(channel)
        for channel in ended:
            self._version[channel] += 1
            self._bound[channel] = -1
            for resource in self._paths[channel]:
                self._advance(resource, now)
                del self._on[resource][channel]
                self.carried[resource] += self._size[channel]
                self._dirty[resource] = None
        return ended

    def _first(self, resource: int) -> float:
        """The clock at which the next transfer bound to the resource ends."""
        ends = self._ends[resource]
        while ends and ends[0][2] != self._version[ends[0][1]]:
            heappop(ends)
        return ends[0][0] if ends else FOREVER

    def settle(self, now: float) -> None:
        if not self._dirty:
            return
        new, self._new = self._new, []
        for channel in new:
            self._bind(channel, self._size[channel], now)
        for resource in list(self._dirty):
            count, before = len(self._on[resource]), self._reviewed[resource]
            if count > REVIEW * before or REVIEW * count < before:
                self._reviewed[resource] = count
                for channel in self._on[resource]:
                    self._review(channel, now)
        dirty, self._dirty = self._dirty, {}
        for resource in dirty:
            first, count = self._first(resource), len(self._on[resource])
            capacity = self._capacities[resource]
            if first < FOREVER and capacity > 0.0:
                wait = max(0.0, first - self._clock[resource]) * count / capacity
                self._number[resource] = self._alarm(now + wait, resource)
            else:
                self._number[resource] = -1

    def _scarcest(self, channel: int) -> int:
        best, share = -1, FOREVER
        for resource in self._paths[channel]:
            offered = self._capacities[resource] / len(self._on[resource])
            if offered < share:
                best, share = resource, offered
        return best

    def _bind(self, channel: int, nbytes: float, now: float) -> None:
        resource = self._scarcest(channel)
        self._advance(resource, now)
        self._version[channel] += 1
        self._bound[channel] = resource
        end = self._end[channel] = self._clock[resource] + nbytes
        heappush(self._ends[resource], (end, channel, self._version[channel]))
        self._dirty[resource] = None

    def _review(self, channel: int, now: float) -> None:
        bound = self._bound[channel]
        resource = self._scarcest(channel)
        if resource == bound:
            return
        self._advance(bound, now)
        self._dirty[bound] = None
        self._bind(channel, max(0.0, self._end[channel] - self._clock[bound]), now)

    def fail(self, resources: Iterable[int], now: float) -> None:
        for resource in resources:
            self._advance(resource, now)
            self._capacities[resource] = 0.0
            self._reviewed[resource] = 0
            self._dirty[resource] = None
