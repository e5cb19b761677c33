"""How a coordinator that knows nothing of a group takes it over: from what its peers report, and its own record if it has one.

Best is the view with the highest epoch that anybody reports or the record holds. Why it is safe to go on from it:

(1) *With a record* it is the last view there was, since a view is written down before it is announced. So whoever is
not in it is out, and who is in it and does not report in time is dead, or as good as dead: the next view is announced
without it, and it can commit nothing without the others.

(2) *Without a record, all members of best report.* A later view could only have been made of halted reports of best's
members, and whoever of them adopted it would report it; so nobody who could act in a later view is left.

(3) *Without a record, some are missing.* They may have gone on without us, in a later view that we know nothing of. A strict
majority of best goes on; fewer only if nothing listens any more at the addresses of all others (the processes are
gone). Otherwise we wait. What remains uncovered: the lost coordinator had declared a majority dead that was only cut off, and the
minority it went on with is cut off from us now. A record (a journal, or etcd) closes that, too.

No epoch is used twice: every halt says which epoch is to come, peers report the highest they have heard of, and the next view
comes after it. Only in case (3) may an epoch have been announced whose halt nobody here has heard; then the numbers skip
more than there can have been.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..types import Member
from .messages import Message

Reports = Mapping[bytes, Message]  # by connection
OTHER_RUN = "of an earlier run: the group was begun anew since"
UNHEARD = 1 << 16  # more views, and more newcomers, than a lost coordinator can have had without anybody here knowing
PROBE_SECONDS = 0.5  # between two looks whether the missing are gone


@dataclass(frozen=True)
class Resumption:
    """``view``: the last one, as it was announced; ``members``: connections of those who go on
    in it; ``lagging``: those of them who have not adopted it yet; ``waiting``: newcomers; ``strays``: who is out."""

    view: Message
    members: tuple[bytes, ...]
    lagging: tuple[bytes, ...]
    waiting: tuple[bytes, ...]
    strays: tuple[bytes, ...]
    lost: tuple[Member, ...]
    next_epoch: int
    next_id: int


@dataclass
class Recovery:
    """Collects reports of one group; ``record`` is the last one written down."""

    record: Message | None
    began: float
    reports: dict[bytes, Message] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)  # members at whose address nothing listens
    probed_at: float = 0.0
    told: set[int] = field(default_factory=set)  # of whom people were told that we wait for them

    @property
    def recorded(self) -> bool:
        """Whether there is a record, and nobody knows of a later view."""
        best = self.best
        return self.record is not None and best is not None and self.record["view"]["epoch"] == best["epoch"]

    @property
    def best(self) -> Message | None:
        """The view with the highest epoch, as a message."""
        views = [report["view"] for report in [*self.reports.values(), self.record or {"view": None}]]
        return max((view for view in views if view is not None), key=lambda view: view["epoch"], default=None)

    def missing(self) -> list[Member]:
        """Members of the best view that have not reported."""
        best = self.best
        here = {report["member"][0] for report in self.reports.values()}
        return [] if best is None else [Member(*row) for row in best["members"] if row[0] not in here]

    def to_probe(self, now: float, grace: float) -> list[Member]:
        """Whose addresses to look at now."""
        if self.recorded or now - self.began < grace or now - self.probed_at < PROBE_SECONDS:
            return []
        self.probed_at = now
        return [member for member in self.missing() if member.id not in self.refused]

    def conclude(self, now: float, grace: float) -> Resumption | None:
        """How to go on, or None: wait for more reports."""
        best, missing = self.best, self.missing()
        late = now - self.began >= grace
        if best is None:
            return None
        if not missing:
            return self._resume([], certain=True)
        if not late:
            return None
        majority = 2 * len(missing) < len(best["members"])
        gone = {member.id for member in missing} <= self.refused
        if self.recorded or majority or gone:
            return self._resume(missing, certain=self.recorded)
        return None

    def _resume(self, lost: Iterable[Member], certain: bool) -> Resumption:
        best = self.best
        assert best is not None
        ids = {row[0] for row in best["members"]}
        epoch = best["epoch"]
        groups: dict[str, list[bytes]] = {"members": [], "lagging": [], "waiting": [], "strays": []}
        for key, report in self.reports.items():
            own = -1 if report["view"] is None else report["view"]["epoch"]
            if report["member"][0] in ids:
                groups["members"].append(key)
                if own < epoch:
                    groups["lagging"].append(key)
            else:
                groups["waiting" if own < 0 else "strays"].append(key)
        heard = [report["next"] for report in self.reports.values()]
        known = [report["member"][0] for report in self.reports.values()]
        if self.record is not None:
            heard.append(self.record["next_epoch"] - 1)
            known.append(self.record["next_id"] - 1)
        return Resumption(
            best,
            **{name: tuple(keys) for name, keys in groups.items()},
            lost=tuple(lost),
            next_epoch=max(epoch, *heard, 0) + 1 + (0 if certain else UNHEARD),
            next_id=max(ids | {*known, 0}) + 1 + UNHEARD,
        )
