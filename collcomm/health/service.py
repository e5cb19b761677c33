"""Watches over the health of all groups of a coordinator: between the membership, which hears and acts, and `GroupHealth`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..membership.attendance import Doubt, Measure, Order, Say, SetAside
from ..membership.messages import Message
from ..types import LinkRow, View, Way, WayKind
from .attending import Case, GroupHealth, links_of
from .finding import CulpritKind, Finding
from .policy import EVERYBODY, Avoid, Evict, Policy
from .wire import corruption_of, observation_of

Measurement = tuple[LinkRow, float]
ASK_SECONDS = 3.0  # until the same link is asked for again


class HealthService:
    """An `Attendant` of the membership. ``policy``: what is done about findings."""

    def __init__(self, policy: Policy | None = None):
        self._policy = policy or Policy()
        self._wards: dict[str, _Ward] = {}

    def heard(self, now: float, group: str, member: int, message: Message) -> None:
        ward = self._wards.get(group)
        if ward is None:
            return
        if message["t"] == "health":
            ward.health.observed(observation_of(message, member, now))
        elif message["t"] == "corrupt":
            ward.corrupt(corruption_of(message, now))
        else:
            ward.health.accused(now, member, message["member"], message.get("evidence", "unreachable"))

    def tick(
        self, now: float, group: str, view: View, links: Iterable[Measurement], ways: Sequence[Way]
    ) -> Sequence[Order]:
        ward = self._wards.get(group)
        if ward is None:
            ward = self._wards[group] = _Ward(self._policy)
        return ward.tick(now, view, links, ways)

    def keep_only(self, groups: Sequence[str]) -> None:
        for name in self._wards.keys() - set(groups):
            del self._wards[name]

    def show(self, shown: dict[str, Any], now: float, wall: float) -> dict[str, Any]:
        ward = self._wards.get(shown["group"])
        return shown if ward is None else ward.health.show(shown, now, wall)


class _Ward:
    """One group."""

    def __init__(self, policy: Policy):
        self.health = GroupHealth(policy)
        self._view = View(-1, ())
        self._measured_at: dict[tuple[int, int], float] = {}
        self._asked_at: dict[tuple[int, int], float] = {}  # pairs of members, lately
        self._avoided: dict[int, Avoid] = {}  # by case
        self._corrupt: dict[object, Finding] = {}  # since the last tick

    def corrupt(self, finding: Finding) -> None:
        """All members tell the same."""
        if set(finding.culprit.members) <= set(self._view.ids):
            self._corrupt.setdefault((finding.since, finding.culprit), finding)

    def tick(self, now: float, view: View, links: Iterable[Measurement], ways: Iterable[Way]) -> list[Order]:
        if view.epoch != self._view.epoch:
            self._view = view
            here = set(view.ids)
            self._measured_at = {link: at for link, at in self._measured_at.items() if here.issuperset(link)}
            self.health.view_changed(now, view)
        self.health.relayed(way.pair for way in ways if way.kind is WayKind.RELAY)
        rows = list(links)
        self.health.measured(now, self._fresh(now, rows))
        open_before = {case.number for case in self.health.open}
        measures = self.health.tick(now)
        corrupt, self._corrupt = self._corrupt, {}
        for finding in corrupt.values():
            measures += self.health.corrupt(finding)
        orders: list[Order] = [*self._said(open_before)]
        for measure in measures:
            case = next(one for one in reversed(self.health.cases) if one.finding is measure.finding)
            if isinstance(measure, Evict):
                name = case.names[0]
                case.action = f"set aside for {measure.cooldown:.0f} s"
                orders.append(Say("action", f"{name} is {case.action}", measure.member))
                orders.append(SetAside(measure.member, measure.cause, measure.cooldown))
            else:
                self._avoided[case.number] = measure
                case.action = "avoided: the planner takes it for as slow as it was found"
                orders.append(Say("action", f"{_culprit(case)} is {case.action}"))
        held = {case.number for case in self.health.open}
        over = self._avoided.keys() - held
        if over or any(isinstance(measure, Avoid) for measure in measures):
            self._avoided = {number: one for number, one in self._avoided.items() if number in held}
            orders.append(Doubt(self._factors()))
        wanted = self._not_asked_lately(now)
        if wanted:
            orders.append(Measure(wanted))
        return orders

    def _not_asked_lately(self, now: float) -> list[tuple[int, int]]:
        """Pairs whose links the diagnosis wants measured; what was asked for takes a moment."""
        pairs = dict.fromkeys((min(pair), max(pair)) for pair in self.health.wanted)
        self._asked_at = {pair: at for pair, at in self._asked_at.items() if now - at < ASK_SECONDS}
        news = [pair for pair in pairs if pair not in self._asked_at]
        self._asked_at.update(dict.fromkeys(news, now))
        return news

    def _fresh(self, now: float, links: Sequence[Measurement]) -> list[LinkRow]:
        """Those that were measured since the last look."""
        fresh, known = [], self._measured_at
        for row, age in links:
            link, at = (row.source, row.target), now - age
            before = known.get(link)
            if before is None or at > before + 1e-3:
                fresh.append(row)
            known[link] = at if before is None else max(at, before)
        return fresh

    def _said(self, open_before: set[int]) -> list[Say]:
        said = []
        for case in self.health.cases:
            member = case.finding.culprit.members[0] if len(case.finding.culprit.members) == 1 else 0
            if case.ended is None and case.number not in open_before:
                text = f"{case.finding.syndrome}: {_culprit(case)}; {case.finding.evidence}"
                said.append(Say("finding", text, member, case.finding.syndrome.value))
            elif case.ended is not None and case.number in open_before:
                said.append(Say("recovered", f"{_culprit(case)} is as usual again", member))
        return said

    def _factors(self) -> dict[tuple[int, int], float]:
        factors: dict[tuple[int, int], float] = {}
        for avoid in self._avoided.values():
            for pair, factor in avoid.links.items():
                for link in links_of([pair], self._view.ids, EVERYBODY):
                    factors[link] = max(factor, factors.get(link, 1.0))
        return factors


def _culprit(case: Case) -> str:
    """In words."""
    names = case.names
    return {
        CulpritKind.LINK: f"the link from {names[0]} to {names[-1]}",
        CulpritKind.SENDER: f"what {names[0]} sends",
        CulpritKind.RECEIVER: f"what {names[0]} receives",
        CulpritKind.RANK: " and ".join(names),
    }[case.finding.culprit.kind]
