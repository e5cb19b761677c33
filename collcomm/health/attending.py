"""The health of one group at its coordinator: what its members tell goes to the diagnosis, and what follows is shown, and done.

A pure state machine like those of `collcomm.membership`: events in, each with the time on the coordinator's clock; what is to be
done out, as `policy.Measure`s. It changes nothing by itself: the coordinator carries measures out, and says what came of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ..types import LinkRow, View
from .diagnosis import Diagnosis
from .finding import Finding
from .gathering import Gathered
from .observation import Observation
from .policy import Measure, Policy, Practice
from .snapshot import MOST_FINDINGS, MOST_HISTORY

FRESH_SECONDS = 5.0  # an older observation tells nothing of the present
CORRUPT_SECONDS = 60.0  # without another wrong result, and a finding of corruption has ended
LATE_SAMPLES = 64  # operations over which lateness is shown


@dataclass
class Case:
    """A finding, and what has become of it."""

    number: int
    finding: Finding
    names: list[str]
    action: str | None = None
    ended: float | None = None


@dataclass
class Told:
    """By one member: its last observation, and by how much it came late to operations."""

    observation: Observation
    late: deque[float] = field(default_factory=lambda: deque(maxlen=LATE_SAMPLES))


class GroupHealth:
    """``policy``: what the user wants done. ``cases``: open ones and those that ended, oldest first."""

    def __init__(self, policy: Policy | None = None):
        self.cases: deque[Case] = deque(maxlen=MOST_FINDINGS)
        self._practice = Practice(policy or Policy())
        self._diagnosis = Diagnosis()
        self._view = View(-1, ())
        self._told: dict[int, Told] = {}
        self._corrupt_at: dict[object, float] = {}  # by key of a finding: when it was told last
        self._numbers = 0
        self._history: deque[tuple[float, float, float, int]] = deque(maxlen=MOST_HISTORY)
        self._totals: Counter[str] = Counter()

    # -- events -----------------------------------------------------------------------------------------------------

    def view_changed(self, now: float, view: View) -> None:
        gone = set(self._view.ids) - set(view.ids)
        self._view = view
        for member in gone:
            self._told.pop(member, None)
        self._diagnosis.view_changed(now, view.epoch, view.ids, sorted(gone))

    def observed(self, observation: Observation) -> None:
        if observation.epoch != self._view.epoch or self._view.rank_of(observation.member) is None:
            return
        told = self._told.setdefault(observation.member, Told(observation))
        told.observation = observation
        for operation in self._diagnosis.observe(observation):
            self._note_lateness(operation)

    def accused(self, now: float, reporter: int, member: int, evidence: str) -> None:
        self._diagnosis.accused(now, reporter, member, evidence)

    def relayed(self, pairs: Iterable[tuple[int, int]]) -> None:
        """From now on, these pairs of members are linked through a third."""
        self._diagnosis.relayed(pairs)

    def measured(self, now: float, rows: Sequence[LinkRow]) -> None:
        self._diagnosis.measured(now, rows)

    def corrupt(self, finding: Finding) -> list[Measure]:
        """A check of results has found something; members tell it, each for itself."""
        self._corrupt_at[finding.key] = finding.at
        known = any(case.ended is None and case.finding.key == finding.key for case in self.cases)
        return [] if known else self._open(finding.at, finding)

    def tick(self, now: float) -> list[Measure]:
        """What is to be done about what is found now."""
        measures: list[Measure] = []
        for finding in self._diagnosis.tick(now):
            measures += self._open(now, finding)
        over: set[object] = {finding.key for finding in self._diagnosis.take_ended()}
        over |= {key for key, at in self._corrupt_at.items() if now - at >= CORRUPT_SECONDS}
        self._corrupt_at = {key: at for key, at in self._corrupt_at.items() if key not in over}
        for case in self.cases:
            if case.ended is None and case.finding.key in over:
                case.ended = now
        self._count(now)
        return measures

    @property
    def wanted(self) -> Sequence[tuple[int, int]]:
        """Pairs of members whose links should be measured now."""
        return self._diagnosis.wanted

    @property
    def open(self) -> list[Case]:
        return [case for case in self.cases if case.ended is None]

    def _open(self, now: float, finding: Finding) -> list[Measure]:
        self._numbers += 1
        names = {member.id: member.name for member in self._view.members}
        self.cases.append(Case(self._numbers, finding, [names.get(one, str(one)) for one in finding.culprit.members]))
        return self._practice.measures(now, finding, self._view.ids, names)

    # -- what is shown ------------------------------------------------------------------------------------------------

    def _note_lateness(self, operation: Gathered) -> None:
        """All leave an operation together, so who was in it for the shortest time came last."""
        if len(operation.told) < self._view.size:
            return  # of some members only
        for member, (took, _) in operation.told.items():
            if member in self._told:
                self._told[member].late.append(operation.took - took)

    def _count(self, now: float) -> None:
        """One row of history a second."""
        if self._history and now - self._history[-1][0] < 1.0:
            return
        fresh = [told.observation for told in self._told.values() if now - told.observation.at < FRESH_SECONDS]
        rates = [one.operations_ended / one.covers for one in fresh if one.covers > 0]
        sent = sum(flow.nbytes / one.covers for one in fresh if one.covers > 0 for flow in one.flows)
        self._history.append((now, max(rates, default=0.0), sent, self._view.size))

    def show(self, shown: dict[str, Any], now: float, wall: float) -> dict[str, Any]:
        """``shown`` is a snapshot as `collcomm.membership` makes it; what the members have told is put in."""
        lag = wall - now
        for row in shown["members"]:
            told = self._told.get(row["id"])
            if told is not None and now - told.observation.at < FRESH_SECONDS:
                row.update(_told_row(told, row["state"]))
        received: Counter[int] = Counter()
        shown["traffic"] = []
        for source, told in self._told.items():
            covers = told.observation.covers
            for flow in told.observation.flows if covers > 0 else ():
                busy = min(1.0, flow.busy / covers)
                rate = flow.nbytes / covers
                received[flow.target] += round(rate)
                shown["traffic"].append(
                    {"source": source, "target": flow.target, "sent": round(rate), "busy": round(busy, 3)}
                )
        for row in shown["members"]:
            if row["sent"] is not None:
                row["received"] = received[row["id"]]
        shown["findings"] = [_case_row(case, lag) for case in self.cases]
        shown["history"] = [
            {"at": at + lag, "operations": round(operations, 3), "sent": round(sent), "members": members}
            for at, operations, sent, members in self._history
        ]
        return shown


def _told_row(told: Told, state: str | None) -> Mapping[str, Any]:
    observation = told.observation
    covers = max(observation.covers, 1e-9)
    operation = None
    if observation.open:
        one = max(observation.open, key=lambda each: each.age)
        operation = {
            "gid": one.gid,
            "seq": one.seq,
            "kind": one.kind,
            "nbytes": one.nbytes,
            "age": round(one.age, 6),
            "waiting_on": list(one.waiting_on),
        }
        found = "waiting" if one.silent > 0.0 else "communicating"
    else:
        found = "computing"
    return {
        "state": "silent" if state == "silent" else found,
        "operation": operation,
        "operations": observation.operations,
        "rate": round(observation.operations_ended / covers, 3),
        "sent": round(sum(flow.nbytes for flow in observation.flows) / covers),
        "computed": round(min(1.0, observation.computed / covers), 3),
        "late": round(median(told.late), 6) if told.late else None,
    }


def _case_row(case: Case, lag: float) -> dict[str, Any]:
    return {
        "id": case.number,
        **case.finding.row(),
        "names": case.names,
        "at": case.finding.at + lag,
        "action": case.action,
        "ended": None if case.ended is None else case.ended + lag,
    }


def links_of(pairs: Iterable[tuple[int, int]], present: Sequence[int], everybody: int) -> list[tuple[int, int]]:
    """``pairs`` of members, of which either may stand for ``everybody``."""
    found = []
    for source, target in pairs:
        sources = present if source == everybody else [source]
        targets = present if target == everybody else [target]
        found += [(one, other) for one in sources for other in targets if one != other]
    return found
