"""Members that others wait for: they come late to operations, are busy while all others wait, or do not take what has come."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from .baseline import Baseline, Watch
from .company import Company
from .finding import Culprit, CulpritKind, Finding, Syndrome
from .flows import Flows
from .gathering import Class, Gathered
from .keeping import Keeping
from .limits import Limits
from .pace import Pace
from .toll import Toll

MOST_CLASSES = 256


class _Member:
    """``late``: seconds after most others. ``share``: of an operation, in which it waited."""

    __slots__ = ("late", "share")

    def __init__(self, limits: Limits):
        self.late = _watch(limits)
        self.share = _watch(limits)


def _watch(limits: Limits) -> Watch:
    usual = Baseline(limits.history, limits.least, limits.warmup)
    return Watch(usual, limits.window, limits.sustained, limits.sustained_seconds)


class Stragglers:
    """Of all operations of a class, and anew in each view: work may be dealt out in another way then."""

    def __init__(self, limits: Limits, company: Company, pace: Pace, flows: Flows):
        self._limits = limits
        self._company = company
        self._pace = pace
        self._flows = flows
        self._classes: Keeping[Class, dict[int, _Member]] = Keeping(dict, MOST_CLASSES)
        self._toll = Toll(limits)
        self._busy_since: dict[tuple[Class, int], float] = {}

    def view_changed(self) -> None:
        """Who was found to come late goes on being judged by what was usual for it."""
        ids = self._company.ids
        for _, members in self._classes.items():
            for member in list(members):
                watches = members[member]
                if member not in ids or not (watches.late.departed or watches.share.departed):
                    del members[member]
        self._toll.keep(ids)
        self._busy_since.clear()

    def add(self, at: float, operation: Gathered, slow: bool) -> None:
        """One more operation that all have told of; ``slow``: it took much longer than usual."""
        cls = operation.cls
        members = self._classes.of(cls)
        for member in operation.told.keys() - members.keys():
            members[member] = _Member(self._limits)
        took = operation.took
        since = (operation.gid, operation.seq)
        self._note_lateness(at, cls, operation, members, took, since)
        busy = self._busy_one(operation)
        if busy is not None and not slow and not self._is_unusual(busy, operation, members[busy].share.usual):
            busy = None
        for member, (own, waited) in operation.told.items():
            members[member].share.add(at, min(1.0, waited / own), member == busy, took, since)

    def _note_lateness(
        self,
        at: float,
        cls: Class,
        operation: Gathered,
        members: dict[int, _Member],
        took: float,
        since: tuple[int, int],
    ) -> None:
        """All leave together, so who took less came later. Later than half of the others did: one that comes early makes nobody
        else late. When more than a third are later than usual, the work has changed, and nobody is sick."""
        durations = sorted((own for own, _ in operation.told.values()), reverse=True)
        most = durations[(len(durations) - 1) // 2]
        last = most - durations[-1]
        matters = max(self._limits.late_least, self._limits.late_share * max(self._pace.period(cls), 0.0))
        late = {member: most - own for member, (own, _) in operation.told.items()}
        deviating = set()
        for member, seconds in late.items():
            usual = members[member].late.usual
            is_late = seconds >= 0.5 * last and seconds - usual.median >= matters
            deviations = self._limits.last_deviations if seconds == last else self._limits.deviations
            if is_late and usual.beyond(seconds, deviations):
                deviating.add(member)
        if len(deviating) > max(1, len(late) // 3):
            deviating = set()
        for member, seconds in late.items():
            members[member].late.add(at, seconds, member in deviating, took, since)
        self._toll.add(at, cls, late, since)

    def _is_unusual(self, member: int, operation: Gathered, usual: Baseline) -> bool:
        """Whether ``member`` waited for much less of the operation than it usually does, and that took somewhat longer."""
        own, waited = operation.told[member]
        less = usual.median - waited / own
        unusual = usual.ready and less > max(self._limits.deviations * usual.spread, self._limits.idle_share)
        return unusual and self._pace.is_longer(operation)

    def _busy_one(self, operation: Gathered) -> int | None:
        """Who had something to do all the time while all others waited for most of it."""
        shares = {member: waited / own for member, (own, waited) in operation.told.items()}
        busy = min(shares, key=lambda member: (shares[member], member))
        others = [share for member, share in shares.items() if member != busy]
        alone = shares[busy] <= self._limits.idle_share and shares[busy] <= 0.5 * min(others)
        return busy if alone and median(others) >= self._limits.waiting_share else None

    def late(self, now: float) -> set[int]:
        """Members that come late, or have done so in a third of the last operations."""
        return {
            member
            for _, members in self._classes.items()
            for member, watches in members.items()
            if self._speaks(now, watches.late)
            and (watches.late.departed or 3 * watches.late.deviating >= self._limits.window)
        }

    def claims(self, now: float, explained: bool) -> list[Finding]:
        """``explained``: something hangs, a flow is slow or somebody comes late; then, that one waits, or lets others wait, is no
        news."""
        found: dict[int, Finding] = {}
        for finding in [
            *self._late(now),
            *self._costly(now),
            *([] if explained else [*self._busy(now), *self._holding(now)]),
        ]:
            (member,) = finding.culprit.members
            if member not in found or finding.confidence > found[member].confidence:
                found[member] = finding
        return list(found.values())

    def _speaks(self, now: float, watch: Watch) -> bool:
        return now - watch.at < self._limits.forget

    def _late(self, now: float) -> Iterator[Finding]:
        for cls, members in self._classes.items():
            for member, watches in members.items():
                watch = watches.late
                if not (watch.departed and self._speaks(now, watch)):
                    continue
                excess = watch.present - watch.usual.median
                text = (
                    f"member {member} came {_seconds(watch.present)} after the others in {watch.deviating} of "
                    f"{watch.looked_at} operations ({cls}), usually {_seconds(watch.usual.median)}"
                )
                yield self._finding(now, member, text, 0.9, watch, self._times(cls, excess))

    def _costly(self, now: float) -> Iterator[Finding]:
        for member, watch in self._toll.departed(now):
            text = (
                f"the others waited for member {member} to come for {watch.present:.0%} of the time in {watch.deviating} of "
                f"{watch.looked_at} spans of some seconds, usually {watch.usual.median:.0%}"
            )
            factor = 1.0 / max(0.05, 1.0 - (watch.present - watch.usual.median))
            yield self._finding(now, member, text, 0.8, watch, factor)

    def _busy(self, now: float) -> Iterator[Finding]:
        for cls, members in self._classes.items():
            for member, watches in members.items():
                watch = watches.share
                if not (watch.departed and self._speaks(now, watch)):
                    self._busy_since.pop((cls, member), None)
                    continue
                since = self._busy_since.setdefault((cls, member), now)
                if now - since < 2.0 * self._limits.interval:
                    continue  # if it is a slow link, its flows say so by then
                text = (
                    f"member {member} waited for {watch.present:.0%} of an operation ({cls}), the others for most of it, in "
                    f"{watch.deviating} of {watch.looked_at} that took much longer than usual; usually it waits for "
                    f"{watch.usual.median:.0%}"
                )
                yield self._finding(now, member, text, 0.7, watch, 1.0)

    def _holding(self, now: float) -> Iterator[Finding]:
        """Who lets senders stand while it can pass on what it has: of a chain that stands, the last is to blame."""
        held = self._flows.holding_up(now)
        if not held or not self._pace.slowed_for_good(now):
            return
        judged = self._flows.carrying(now)
        for member in sorted({target for _, target in held}):
            into = {edge for edge in judged if edge[1] == member}
            stands = into & held
            if len(stands) < self._limits.row_share * len(into) or any(edge[0] == member for edge in held):
                continue
            shares = [flow.held for edge in stands if (flow := self._flows.of(edge)) is not None]
            watch = max((share for share in shares if share is not None), key=lambda share: share.present)
            text = (
                f"member {member} took nothing of what {len(stands)} others sent for {watch.present:.0%} of the time in "
                f"{watch.deviating} of {watch.looked_at} observations, usually {watch.usual.median:.0%}"
            )
            yield self._finding(now, member, text, 0.6, None, 1.0)

    def _times(self, cls: Class, excess: float) -> float:
        """How many times as long all take since then."""
        usual = self._pace.usual(cls)
        return 1.0 if usual <= 0.0 else (usual + excess) / usual

    def _finding(
        self, now: float, member: int, text: str, confidence: float, watch: Watch | None, factor: float
    ) -> Finding:
        since = None if watch is None else watch.since
        culprit = Culprit(CulpritKind.RANK, (member,))
        return Finding(Syndrome.NON_COMMUNICATION_SLOW, culprit, now, text, confidence, since, factor)


def _seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if abs(value) < 1.0 else f"{value:.3g} s"
