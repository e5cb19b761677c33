"""From what all members tell to who, or which link, is sick. A pure state machine: the coordinator drives it as observations
come, and offline those that flight recorders have kept are fed to it in the same way.

    event                                   what follows
    --------------------------------------  ------------------------------------------------------------------------
    observe(observation)                    baselines of what is usual; hot cells; late members
    accused(reporter, member, evidence)     a broken link, if both are still members a moment later
    measured(rows)                          tells a slow link from a slow sender or receiver
    view_changed(epoch, ids, gone)          those who are gone are forgotten; what was under way begins anew
    tick(now)                               new findings; each is told once, until it has ended
    ended(now)                              findings that hold no longer

The rules, and why each cannot accuse who is healthy, stand with them: `hang`, `straggler`, `slowlinks`, `flapping`. Joins, leaves
and deaths are never findings: they are the membership's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..types import LinkRow
from .finding import Finding, Syndrome
from .flapping import BrokenLinks
from .hang import HangLimits, Hangs
from .observation import Observation, Sample
from .pace import Pace
from .slowlinks import SlowLinks
from .straggler import Stragglers

MOST_OPERATIONS = 1024  # of which not all members have told yet


class Diagnosis:
    """Feed it with one group's events, in order."""

    def __init__(self, limits: HangLimits | None = None):
        self._ids: tuple[int, ...] = ()
        self._epoch = -1
        self._last: dict[int, Observation] = {}
        self._took: dict[tuple[int, int, int], dict[int, float]] = {}  # by operation and member
        self._stragglers = Stragglers()
        self._links = SlowLinks()
        self._hangs = Hangs(limits)
        self._broken = BrokenLinks()
        self._pace = Pace()
        self._late: list[int] = []
        self._open: dict[tuple[object, ...], Finding] = {}
        self._over: list[Finding] = []

    # -- events -----------------------------------------------------------------------------------------------------

    def view_changed(self, now: float, epoch: int, ids: Sequence[int], gone: Sequence[int] = ()) -> None:
        self._epoch, self._ids = epoch, tuple(ids)
        self._last = {member: one for member, one in self._last.items() if member in self._ids}
        self._took.clear()
        self._pace.view_changed()
        self._stragglers.keep_only(self._ids)
        self._links.keep_only(self._ids)
        self._broken.view_changed(now, self._ids)
        self._over += [one for one in self._open.values() if not self._holds_beyond_views(one)]
        self._open = {key: one for key, one in self._open.items() if self._holds_beyond_views(one)}

    def observe(self, observation: Observation) -> None:
        """Raises nothing, whatever is in it; what is of another view is passed over."""
        if observation.epoch != self._epoch or observation.member not in self._ids:
            return
        before = self._last.get(observation.member)
        if before is not None and observation.at < before.at:
            return
        self._last[observation.member] = observation
        self._links.observe(observation)
        for sample in observation.samples:
            if sample.epoch == self._epoch and 0.0 <= sample.took < float("inf"):
                self._note(observation.member, sample)

    def accused(self, now: float, reporter: int, member: int, evidence: str) -> None:
        """``reporter`` says that its link to ``member`` is broken."""
        if reporter in self._ids and member in self._ids and reporter != member:
            self._broken.accused(now, reporter, member, evidence)

    def measured(self, now: float, rows: Iterable[LinkRow]) -> None:
        here = set(self._ids)
        self._links.measured(now, [row for row in rows if here.issuperset((row.source, row.target))])

    # -- what follows -------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Finding]:
        """What has been found since the last call, and is not known yet."""
        late, self._late = self._late, []
        slow = set(self._stragglers.slow)
        found = [self._stragglers.find(now, member) for member in late if member in slow]
        self._end_late(set(late) - slow)
        hangs = list(self._hangs.find(now, self._ids, self._last))
        self._end_hangs({one.key for one in hangs})
        suffers = self._pace.suffers(now)
        found += [*(self._links.find(now) if suffers else ()), *hangs, *self._broken.find(now)]
        over = set(self._links.over())
        self._close(lambda one: one.culprit in over)
        mended = {frozenset(pair) for pair in self._broken.over(now)}
        self._close(lambda one: frozenset(one.culprit.members) in mended)
        news = [one for one in found if one.key not in self._open]
        self._open.update({one.key: one for one in news})
        return news

    def ended(self, now: float) -> list[Finding]:
        """Those that hold no longer, since the last call."""
        over, self._over = self._over, []
        return over

    @property
    def wanted(self) -> Sequence[tuple[int, int]]:
        """Links, by source and target, that should be measured now, to tell what a suspicion is about."""
        return self._links.wanted

    def _note(self, member: int, sample: Sample) -> None:
        operation = sample.gid, sample.epoch, sample.seq
        took = self._took.setdefault(operation, {})
        took[member] = sample.took
        if len(took) < len(self._ids):
            while len(self._took) > MOST_OPERATIONS:
                del self._took[next(iter(self._took))]
            return
        del self._took[operation]
        longest = max(took.values())
        self._hangs.learn(sample.kind, sample.nbytes, longest)
        self._pace.note(self._last[member].at, (sample.kind, sample.nbytes.bit_length()), longest)
        self._late += self._stragglers.observe((sample.kind, sample.nbytes.bit_length()), took)

    def _end_late(self, members: set[int]) -> None:
        self._close(lambda one: one.syndrome is Syndrome.NON_COMMUNICATION_SLOW and one.culprit.members[0] in members)

    def _end_hangs(self, holding: set[tuple[object, ...]]) -> None:
        hangs = (Syndrome.NON_COMMUNICATION_HANG, Syndrome.COMMUNICATION_HANG)
        self._close(lambda one: one.syndrome in hangs and one.since is not None and one.key not in holding)

    def _close(self, is_over: Callable[[Finding], bool]) -> None:
        over = [key for key, one in self._open.items() if is_over(one)]
        self._over += [self._open.pop(key) for key in over]

    def _holds_beyond_views(self, finding: Finding) -> bool:
        return self._broken.knows(finding) and set(finding.culprit.members) <= set(self._ids)
