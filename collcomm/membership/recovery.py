"""How a coordinator that knows nothing of a group takes it over: from what its peers report, and its own record if it has one.

Best is the view with the highest epoch that anybody reports or the record holds. Why it is safe to go on from it:

(1) *With a record* it is the last view there was, since a view is written down before it is announced. So whoever is
not in it is out, and who is in it and does not report in time is dead, or as good as dead: the next view is announced
without it, and it can commit nothing without the others.

(2) *Without a record, all members of best report.* A later view could only have been made of halted reports of best's
members, and whoever of them adopted it would report it; so nobody who could act in a later view is left.

(3) *Without a record*, the lost coordinator may have begun a view change out of best and declared some dead, rightly or not. Each
halt names its heirs, those whose reports decide. So of the reports of best, the one of the latest halt says who counts: its
heirs are expected, the other members of best are out. Any decision that somebody has acted on was made by these.

(4) *Without a record, some of those expected are missing.* They may have gone on without us, in a later view that we know
nothing of. A strict majority of best goes on; fewer only if nothing listens any more at the addresses of all others (the
processes are gone). Otherwise we wait.

No epoch is used twice: every halt says which epoch is to come, peers report the highest they have heard of, and the next view
comes after it. Only where members of best are missing may an epoch have been announced whose halt nobody here has heard; then
the numbers skip more than there can have been.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..types import Member
from .messages import Message

Reports = Mapping[bytes, Message]  # by connection
OTHER_RUN = "of an earlier run: the group was begun anew since"
UNHEARD = 1 << 16  # more views, and more newcomers, than a lost coordinator can have had without anybody here knowing
SILENCE = 4  # grace times, if nobody of the last view reports: a group is not ended lightly
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
    options: tuple[int, str]  # min_size, on_failure


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

    def expected(self) -> list[Member]:
        """Members of the best view who are to go on, as far as anybody knows."""
        best = self.best
        if best is None:
            return []
        of_best = [
            report for report in self.reports.values() if report["view"] and report["view"]["epoch"] == best["epoch"]
        ]
        halts = [
            (report["next"], report["round"], report["heirs"]) for report in of_best if report["next"] > best["epoch"]
        ]
        members = [Member(*row) for row in best["members"]]
        if self.recorded or not halts:
            return members
        heirs = set(max(halts)[2])
        return [member for member in members if member.id in heirs]

    def missing(self) -> list[Member]:
        """Those of the expected who have not reported."""
        here = {report["member"][0] for report in self.reports.values()}
        return [member for member in self.expected() if member.id not in here]

    def to_probe(self, now: float, grace: float) -> list[Member]:
        """Whose addresses to look at now."""
        if (self.recorded and self.reports) or now - self.began < grace or now - self.probed_at < PROBE_SECONDS:
            return []
        self.probed_at = now
        return [member for member in self.missing() if member.id not in self.refused]

    def conclude(self, now: float, grace: float) -> Resumption | None:
        """How to go on, or None: wait for more reports."""
        best, missing = self.best, self.missing()
        late = now - self.began >= grace
        if best is None:
            return None
        heard = len(self.expected()) - len(missing)
        if not missing and (heard or not best["members"]):
            return self._resume()
        if not late or (not heard and now - self.began < SILENCE * grace and not self._all_gone(missing)):
            return None
        majority = 2 * heard > len(best["members"])
        return self._resume() if self.recorded or majority or self._all_gone(missing) else None

    def _all_gone(self, members: Iterable[Member]) -> bool:
        return {member.id for member in members} <= self.refused

    def _resume(self) -> Resumption:
        best = self.best
        assert best is not None
        here = {report["member"][0] for report in self.reports.values()}
        ids = {member.id for member in self.expected()} & here
        lost = [Member(*row) for row in best["members"] if row[0] not in ids]
        certain = self.recorded or {row[0] for row in best["members"]} <= here
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
        source = self.record or next(iter(self.reports.values()))
        return Resumption(
            best,
            **{name: tuple(keys) for name, keys in groups.items()},
            lost=tuple(lost),
            next_epoch=max(epoch, *heard, 0) + 1 + (0 if certain else UNHEARD),
            next_id=max({row[0] for row in best["members"]} | {*known, 0}) + 1 + UNHEARD,
            options=(source["min_size"], source["on_failure"]),
        )
