"""Slow communication: which flows are slow, and whether that is a link's fault, a sender's or a receiver's."""

from __future__ import annotations

import math
from collections.abc import Collection

from .company import Company
from .culprits import Edge, Suspect, suspects
from .finding import Culprit, CulpritKind, Finding, Syndrome
from .flows import Flows
from .limits import Limits
from .probes import Decision, Probes, Question

GUESS = 0.5  # how sure the best guess is ...
UNPROBED = 0.8  # ... and what traffic alone tells
ALIKE = 3.0  # flows that are slow for one reason are so by about the same factor
MOST_WANTED = 16  # probes at once
SUSPECTED_SECONDS = 30.0  # since a probe was wanted: by then it has been made, or given up
SIDES = frozenset((CulpritKind.SENDER, CulpritKind.RECEIVER))


class _Doubt:
    """A suspicion that traffic alone cannot settle. ``said``: what was guessed when patience ended."""

    def __init__(self, since: float):
        self.since = since
        self.decision: Decision | None = None
        self.said: Culprit | None = None


class SlowFlows:
    """``withdrawn``: culprits named before that better evidence has replaced."""

    def __init__(self, limits: Limits, company: Company, flows: Flows, probes: Probes):
        self._limits = limits
        self._company = company
        self._flows = flows
        self._probes = probes
        self._doubts: dict[tuple[int, ...], _Doubt] = {}  # by the members of a suspect
        self._named: dict[Culprit, tuple[frozenset[Edge], Finding]] = {}
        self.wanted: list[Edge] = []
        self._wanted_at: dict[Edge, float] = {}
        self.withdrawn: set[Culprit] = set()

    def suspects(self, now: float, edge: Edge) -> bool:
        """Whether ``edge`` was to be measured a moment ago, or has to do with somebody who was named."""
        named = {member for culprit in self._named for member in culprit.members}
        return now - self._wanted_at.get(edge, -math.inf) < SUSPECTED_SECONDS or not named.isdisjoint(edge)

    def view_changed(self) -> None:
        ids = self._company.ids
        self._doubts = {members: doubt for members, doubt in self._doubts.items() if set(members) <= ids}
        self._named = {culprit: named for culprit, named in self._named.items() if set(culprit.members) <= ids}
        self.wanted = []

    def claims(self, now: float, excused: Collection[int]) -> list[Finding]:
        """``excused``: members that come late; what flows to or from them waits for that."""
        self.wanted, self.withdrawn = [], set()
        sick = {edge for edge in self._flows.slow(now) if not set(edge) & set(excused)}
        judged = self._flows.judged(now, self._flows.slow_since(sick))
        slow = sick & judged  # of the others, nothing is known since they were avoided
        warm = {edge for edge in self._flows.warm(now) if not set(edge) & set(excused)}
        self._forget(slow | warm)
        self._named = {culprit: named for culprit, named in self._named.items() if _own(culprit, named[0]) & sick}
        if slow:
            worst = max(self._flows.factor(edge) for edge in slow)
            hot = slow | {edge for edge in warm if self._flows.factor(edge) * ALIKE >= worst}
            for suspect in suspects(hot, judged, self._limits.row_share, firm=slow, order=self._flows.factor):
                if suspect.edges & slow and not self._may_spread(now, suspect, hot):
                    self._consider(now, suspect, hot)
        else:
            self._look_ahead(now, {edge for edge in warm if self._flows.factor(edge) >= self._limits.flow_plain})
        self._wanted_at = {edge: at for edge, at in self._wanted_at.items() if now - at < SUSPECTED_SECONDS}
        self._wanted_at.update(dict.fromkeys((*self.wanted, *(edge[::-1] for edge in self.wanted)), now))
        return [finding for _, finding in self._named.values()]

    def _forget(self, hot: Collection[Edge]) -> None:
        """Doubts about what is not slow any more."""
        about = {member for edge in hot for member in edge}
        self._doubts = {
            members: doubt
            for members, doubt in self._doubts.items()
            if (members in hot if len(members) == 2 else members[0] in about)
        }

    def _look_ahead(self, now: float, plain: set[Edge]) -> None:
        """One value, but a plain one: by the time that a second has come, probes may have told whose fault it is."""
        judged = self._flows.judged(now) | plain
        for suspect in suspects(plain, judged, self._limits.row_share, firm=plain, order=self._flows.factor):
            question = self._question(suspect, plain)
            self._doubts.setdefault(suspect.culprit.members, _Doubt(now))
            self._want(self._probes.missing(question, self._fresh_since(suspect)))

    def _may_spread(self, now: float, suspect: Suspect, hot: set[Edge]) -> bool:
        """One flow is slow and others of the same end seem to be: what they are is seen within two observations."""
        if suspect.culprit.kind is not CulpritKind.LINK:
            return False
        (edge,) = suspect.edges
        near = any(edge not in (other, other[::-1]) and (edge[0] == other[0] or edge[1] == other[1]) for other in hot)
        return near and now - self._doubts.setdefault(edge, _Doubt(now)).since < 2.0 * self._limits.interval

    def _consider(self, now: float, suspect: Suspect, hot: set[Edge]) -> None:
        for culprit, (edges, _) in list(self._named.items()):
            own, guessed = _own(culprit, edges), any(doubt.said == culprit for doubt in self._doubts.values())
            known = culprit.kind is not CulpritKind.LINK and not guessed
            if known and suspect.edges <= (edges if own & hot else own):
                return  # a flow of a member that is named already, the others of which have a good moment
            if culprit.members == suspect.culprit.members[::-1] and len(culprit.members) == 2:
                return  # acknowledgements go the other way, and wait behind data
            if edges < suspect.edges and culprit != suspect.culprit:
                self._withdraw(culprit)  # what looked like a link is one of many of its end
        self._doubt(now, suspect, self._question(suspect, hot))

    def _question(self, suspect: Suspect, hot: Collection[Edge]) -> Question:
        """What has to be measured so that it is known who of several is to blame."""
        sick = {member for edge in set(hot) - suspect.edges for member in edge}
        ids, culprit, factor = self._company.ids, suspect.culprit, self._factor(suspect)
        if culprit.kind is not CulpritKind.LINK:
            return self._probes.about_member(culprit, ids, factor)
        unsure = SIDES if self._is_assumed(suspect) else suspect.unsure
        return self._probes.about_link((culprit.members[0], culprit.members[1]), unsure, ids, sick, factor)

    def _is_assumed(self, suspect: Suspect) -> bool:
        return any(self._flows.is_assumed(edge) for edge in suspect.edges)

    def _factor(self, suspect: Suspect) -> float:
        return max(self._flows.factor(edge) for edge in suspect.edges)

    def _doubt(self, now: float, suspect: Suspect, question: Question) -> None:
        """Ask for probes, and say what follows from them; after a while, the best guess."""
        doubt = self._doubts.setdefault(suspect.culprit.members, _Doubt(now))
        since = self._fresh_since(suspect)
        missing = self._probes.missing(question, since)
        flow = self._flows.of(max(suspect.edges, key=self._flows.factor))
        assert flow is not None and flow.speed is not None
        usual = 1.0 / flow.speed.usual.median
        doubted = now - doubt.since
        if doubt.decision is None and not missing:
            doubt.decision = self._probes.decide(question, since, usual, not self._is_assumed(suspect))
            if doubt.decision is None:
                self._flows.learn(suspect.edges)
                del self._doubts[suspect.culprit.members]
                return
        elif doubt.decision is None and set(missing) <= set(question.pair) and doubted >= self._limits.pair_patience:
            doubt.decision = self._probes.decide_by_witnesses(question, since, usual)
        if doubt.decision is not None:
            culprit = Culprit(doubt.decision.kind, doubt.decision.members)
            self._say_instead(doubt, culprit)
            doubt.said = None
            self._name(now, culprit, suspect.edges, f"; {doubt.decision.text}", 0.9)
            return
        self._want(missing)
        if doubted >= self._limits.probe_patience:
            self._guess(now, suspect, doubt, self._probes.decide_by_witnesses(question, since, usual))

    def _guess(self, now: float, suspect: Suspect, doubt: _Doubt, told: Decision | None) -> None:
        """``told``: by those witnesses that have been heard."""
        if told is None:
            culprit, text = suspect.culprit, _unsure(suspect)
            sure = culprit.kind is not CulpritKind.RANK and not (suspect.unsure or self._is_assumed(suspect))
        else:
            culprit, text, sure = Culprit(told.kind, told.members), f"; {told.text}", False
        self._say_instead(doubt, culprit)
        doubt.said = culprit
        self._name(now, culprit, suspect.edges, text, UNPROBED if sure else GUESS)

    def _say_instead(self, doubt: _Doubt, culprit: Culprit) -> None:
        """What was guessed is taken back, if it is another."""
        if doubt.said is not None and culprit != doubt.said:
            self._withdraw(doubt.said)

    def _fresh_since(self, suspect: Suspect) -> float:
        """Probes count that were made since its first slow value, or not long before it was suspected."""
        doubted = self._doubts[suspect.culprit.members].since
        return max(self._flows.slow_since(suspect.edges), doubted - self._limits.probe_fresh)

    def _want(self, edges: list[Edge]) -> None:
        self.wanted += edges[: MOST_WANTED - len(self.wanted)]

    def _withdraw(self, culprit: Culprit) -> None:
        if self._named.pop(culprit, None) is not None:
            self.withdrawn.add(culprit)

    def _name(self, now: float, culprit: Culprit, edges: frozenset[Edge], more: str, confidence: float) -> None:
        worst = max(edges, key=lambda edge: (self._flows.deviating(edge), self._flows.factor(edge), edge))
        flow = self._flows.of(worst)
        assert flow is not None and flow.speed is not None
        watch = flow.speed
        text = (
            f"from member {worst[0]} to member {worst[1]} {_rate(watch.present)} in {watch.deviating} of the last "
            f"{watch.looked_at} observations, usually {_rate(watch.usual.median)}"
        )
        if len(edges) > 1:
            text = f"{len(edges)} flows of member {culprit.members[0]} are slow, for one: {text}"
        if flow.report is not None and flow.report.lost:
            text += f", {flow.report.lost} packets sent again"
        factor = max(1.0, self._flows.factor(worst))
        finding = Finding(Syndrome.COMMUNICATION_SLOW, culprit, now, text + more, confidence, None, factor)
        self._named[culprit] = (edges, finding)


def _own(culprit: Culprit, edges: frozenset[Edge]) -> frozenset[Edge]:
    """Those of ``edges`` that ``culprit`` makes slow; the others wait for its late acknowledgements."""
    if culprit.kind not in SIDES:
        return edges
    end = 0 if culprit.kind is CulpritKind.SENDER else 1
    return frozenset(edge for edge in edges if edge[end] in culprit.members) or edges


def _unsure(suspect: Suspect) -> str:
    if suspect.culprit.kind is CulpritKind.RANK:
        return "; it may be only what it sends, or only what it receives: acknowledgements go the other way"
    others = " or ".join(sorted(kind.value for kind in suspect.unsure))
    return f"; it may be the {others} as well, which no other traffic tells apart" if others else ""


def _rate(seconds_per_byte: float) -> str:
    return f"{1e-6 / max(seconds_per_byte, 1e-12):.3g} MB/s"
