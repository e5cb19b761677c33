"""The members of the present view, and what each has told last."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .limits import Limits
from .observation import Observation, OpenOperation

MOST_MEMBERS = 4096
WHOLE_VIEW = 0  # the communicator that all members of a view are in
LEAP = 3600.0  # seconds; nothing comes from so far ahead of the last tick


class Company:
    """``epoch`` and ``ids`` are those that `view` was told, or, as long as it never was (offline, from dumps), those of the
    observations themselves: whoever speaks of the newest epoch is a member."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.epoch = -1
        self.view_at = -math.inf
        self.told: dict[int, Observation] = {}
        self.period: dict[int, float] = {}  # seconds from one operation to the next, by member
        self.completed: dict[int, int] = {}  # operations between the last two observations, by member
        self.went_on_at: dict[int, float] = {}  # it has completed some since then
        self._ids: frozenset[int] | None = None
        self._input_at = -math.inf
        self._ticked_at = math.inf
        self._listening_since = -math.inf

    @property
    def ids(self) -> frozenset[int]:
        return frozenset(self.told) if self._ids is None else self._ids

    def view(self, now: float, epoch: int, ids: Iterable[int]) -> None:
        self.epoch = epoch
        self.view_at = now
        self._ids = frozenset(ids)
        self.told = {member: told for member, told in self.told.items() if member in self._ids}
        self.period.clear()
        self.completed.clear()
        self.went_on_at.clear()

    def hear(self, now: float) -> None:
        """Some input came. After a long time without any, nobody's silence counts that was before."""
        if now - self._input_at > self.limits.deaf:
            self._listening_since = now
        self._input_at = max(self._input_at, now)

    def admits(self, observation: Observation) -> bool:
        """Whether it is of a member of the present view and newer than what that has told before."""
        if self._ids is not None and (observation.member not in self._ids or observation.epoch != self.epoch):
            return False
        if observation.epoch < self.epoch or observation.at > self._ticked_at + LEAP:
            return False
        before = self.told.get(observation.member)
        if before is None:
            return self._ids is not None or len(self.told) < MOST_MEMBERS
        return observation.at > before.at

    def tell(self, observation: Observation) -> bool:
        """Keep it. True when it begins a new epoch of which nobody else has told."""
        begun = observation.epoch > self.epoch
        if begun:
            self.epoch, self.view_at = observation.epoch, observation.at
            self.told.clear()
        before = self.told.get(observation.member)
        if before is not None and observation.covers > 0.0:
            done = max(0, observation.operations - before.operations)
            self.completed[observation.member] = done
            if done:
                self.went_on_at[observation.member] = observation.at - observation.covers
            self.period[observation.member] = observation.covers / max(1, done)
        self.told[observation.member] = observation
        return begun

    def tick(self, now: float) -> None:
        self.hear(now)
        self._ticked_at = now

    def silent(self, now: float, member: int) -> float:
        """For how many seconds ``member`` has told nothing, though this side listened."""
        told = self.told.get(member)
        heard = self.view_at if told is None else max(told.at, self.view_at)
        return now - max(heard, self._listening_since)

    def mute(self, now: float, member: int) -> bool:
        """It has missed an observation."""
        told = self.told.get(member)
        interval = self.limits.interval if told is None else min(max(told.covers, self.limits.interval), 10.0)
        return self.silent(now, member) > 1.5 * interval + 0.5

    def of(self, gid: int) -> frozenset[int]:
        """The members of a communicator: the whole view's, or those that have spoken of it."""
        if gid == WHOLE_VIEW:
            return self.ids
        spoken = {member for member, told in self.told.items() if gid in told.entered}
        for told in self.told.values():
            for operation in told.open:
                if operation.gid == gid:
                    spoken.update(operation.waiting_on)
                    spoken.add(told.member)
        return frozenset(spoken & self.ids)

    def open(self, member: int) -> list[OpenOperation]:
        """What it was in when it told last."""
        told = self.told.get(member)
        return [] if told is None else [each for each in told.open if each.epoch == self.epoch]

    def entered_at(self, member: int, operation: OpenOperation) -> float:
        """When it entered ``operation`` in this view, by the clock of the diagnosis."""
        return max(self.told[member].at - operation.age, self.view_at)
