"""What each member costs the others, as a share of the time: finds whoever is late to one operation of each step, the others of
which follow at once, so that it is on time for most."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .baseline import Baseline, Watch
from .gathering import Class
from .keeping import Keeping
from .limits import Limits

MOST_MIXES = 8  # kinds of work, told by the classes of operations in it
LEAST_OPERATIONS = 16  # in one span
SPAN_INTERVALS = 2.0  # a span lasts for at least so many intervals between observations


class Toll:
    """Time is cut in spans of some seconds; what is usual is learnt of spans with the same classes of operations. Of each span,
    what a member was late the most counts for nothing, so that it takes more than one event."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._mixes: Keeping[frozenset[Class], dict[int, Watch]] = Keeping(dict, MOST_MIXES)
        self._began: float | None = None
        self._operations = 0
        self._classes: set[Class] = set()
        self._late: dict[int, float] = {}
        self._most: dict[int, float] = {}  # the largest of what is summed up there

    def keep(self, ids: Collection[int]) -> None:
        """A new view: what is usual is found out anew, but for members that were found to be late."""
        for _, members in self._mixes.items():
            for member in list(members):
                if member not in ids or not members[member].departed:
                    del members[member]
        self._restart(None)

    def add(self, at: float, cls: Class, late: Mapping[int, float], since: tuple[int, int]) -> None:
        """One more operation, with how much later than most each member came to it."""
        if self._began is None:
            self._restart(at)
        assert self._began is not None
        self._operations += 1
        self._classes.add(cls)
        for member, seconds in late.items():
            if seconds > 0.0:
                self._late[member] = self._late.get(member, 0.0) + seconds
                self._most[member] = max(self._most.get(member, 0.0), seconds)
        if at - self._began >= SPAN_INTERVALS * self._limits.interval and self._operations >= LEAST_OPERATIONS:
            self._close(at, late.keys(), since)

    def _restart(self, at: float | None) -> None:
        self._began, self._operations = at, 0
        self._classes, self._late, self._most = set(), {}, {}

    def _close(self, at: float, members: Collection[int], since: tuple[int, int]) -> None:
        assert self._began is not None
        watches = self._mixes.of(frozenset(self._classes))
        shares = {
            member: min(1.0, (self._late.get(member, 0.0) - self._most.get(member, 0.0)) / (at - self._began))
            for member in members
        }
        most = max(shares.values(), default=0.0)
        deviating = set()
        for member, share in shares.items():
            watch = watches.setdefault(member, self._watch())
            usual = watch.usual
            is_late = share >= 0.5 * most and share - usual.median >= self._limits.late_share
            if is_late and usual.beyond(share, self._limits.deviations):
                deviating.add(member)
        if len(deviating) > max(1, len(shares) // 3):
            deviating = set()
        for member, share in shares.items():
            watches[member].add(at, share, member in deviating, at - self._began, since)
        self._restart(at)

    def _watch(self) -> Watch:
        limits = self._limits
        usual = Baseline(limits.history, limits.least, limits.flow_warmup)
        return Watch(usual, limits.held_window, limits.held_sustained)

    def departed(self, now: float) -> list[tuple[int, Watch]]:
        return [
            (member, watch)
            for _, members in self._mixes.items()
            for member, watch in members.items()
            if watch.departed and now - watch.at < self._limits.forget
        ]
