"""Active probes that tell a slow link from a slow sender or receiver where traffic cannot: on a ring, each sends to one other."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

from ..types import LinkRow
from .culprits import Edge
from .finding import Culprit, CulpritKind
from .keeping import Keeping
from .limits import Limits

MOST_BANDWIDTH = 1e12  # bytes per second; no link is faster
MOST_ROWS = 65536
LATEST = 8  # measurements of a link
SPANS, SPAN_SECONDS = 8, 15.0  # of what was measured of a link, that are remembered
TURNED = 2.0  # times as slow, and the other direction of a link is the slow one
WITNESSES = 3  # other members that each end of a link is probed with; most of them have to agree


class _Row:
    """``bandwidth`` as measured last, and what it was before: by spans of some seconds, since while a fault lasts it is measured
    again and again."""

    def __init__(self) -> None:
        self.bandwidth = 0.0
        self._latest: deque[tuple[float, float]] = deque(maxlen=LATEST)  # when, and what
        self._spans: deque[tuple[float, float]] = deque(maxlen=SPANS)  # when each began, and the best of it

    def measured(self, now: float, bandwidth: float, suspected: bool) -> None:
        """What is measured because it is ``suspected`` does not tell how it was before."""
        self.bandwidth = bandwidth
        self._latest.append((now, bandwidth))
        if suspected:
            return
        if self._spans and now - self._spans[-1][0] < SPAN_SECONDS:
            began, best = self._spans.pop()
            self._spans.append((began, max(best, bandwidth)))
        else:
            self._spans.append((now, bandwidth))

    @property
    def best(self) -> float:
        return max([self.bandwidth, *(best for _, best in self._spans)])

    def fresh(self, since: float) -> float | None:
        """The least since then: a long probe that ends now may have seen most of its link's better times."""
        return min((bandwidth for at, bandwidth in self._latest if at >= since), default=None)

    def before(self, since: float) -> float | None:
        """The best of all spans that were over by then: the others may be of this fault, and some of them of earlier ones."""
        return max((best for began, best in self._spans if began + SPAN_SECONDS <= since), default=None)


End = tuple[
    tuple[int, ...], tuple[Edge, ...], tuple[Edge, ...]
]  # members, what leaves the first, what comes to the last


class Question(NamedTuple):
    """Which links to measure, to learn what is to blame. ``out``, ``into``: those that leave, or come to, who is suspected;
    ``pair``: both directions of one link of which the wrong one may be suspected, since acknowledgements go the other way;
    ``back_out``, ``back_into``: as ``out`` and ``into``, if it is; ``otherwise``: the answer when neither most that leave alone,
    nor most that come alone, are slow. ``factor``: how many times as slow the suspected flow is."""

    out: tuple[Edge, ...] = ()
    into: tuple[Edge, ...] = ()
    pair: tuple[Edge, ...] = ()
    back_out: tuple[Edge, ...] = ()
    back_into: tuple[Edge, ...] = ()
    otherwise: Culprit = Culprit(CulpritKind.LINK, ())
    factor: float = 1.0

    @property
    def asked(self) -> tuple[Edge, ...]:
        """In the order in which they are best measured: over the suspected link itself, it takes longest."""
        return self.out + self.into + self.back_out + self.back_into + self.pair

    @property
    def ends(self) -> tuple[End, End]:
        """As suspected, and the other way round."""
        members = self.otherwise.members
        return (members, self.out, self.into), (members[::-1], self.back_out, self.back_into)


class Decision(NamedTuple):
    kind: CulpritKind
    members: tuple[int, ...]
    text: str


class Probes:
    def __init__(self, limits: Limits):
        self._limits = limits
        self._rows: Keeping[Edge, _Row] = Keeping(_Row, MOST_ROWS)

    def measured(self, now: float, rows: Iterable[LinkRow], suspected: Callable[[Edge], bool]) -> None:
        """``rows`` from probes that have just been made, some of them of links that are ``suspected``. What cannot be is passed
        over."""
        for row in rows:
            if row.source == row.target or not 0.0 < row.bandwidth <= MOST_BANDWIDTH:
                continue
            edge = row.source, row.target
            self._rows.of(edge).measured(now, row.bandwidth, suspected(edge))

    def best(self, edge: Edge) -> float | None:
        """Of all that is remembered of it, the most: what was measured last may be of a fault."""
        row = self._rows.get(edge)
        return None if row is None else row.best

    def keep(self, ids: Collection[int]) -> None:
        for edge in [edge for edge, _ in self._rows.items() if not set(edge) <= set(ids)]:
            self._rows.pop(edge)

    def about_link(
        self, edge: Edge, unsure: Collection[CulpritKind], ids: Collection[int], sick: Collection[int], factor: float
    ) -> Question:
        """``unsure``: what ``edge`` may be as well, as far as the traffic tells. Witnesses are the same everywhere: one probe of
        a link measures it both ways."""
        source, target = edge
        healthy = sorted(set(ids) - set(edge) - set(sick)) or sorted(set(ids) - set(edge))
        witnesses = healthy[:WITNESSES]
        return Question(
            tuple((source, witness) for witness in witnesses) if CulpritKind.SENDER in unsure else (),
            tuple((witness, target) for witness in witnesses) if CulpritKind.RECEIVER in unsure else (),
            (edge, (target, source)),
            tuple((target, witness) for witness in witnesses),
            tuple((witness, source) for witness in witnesses),
            Culprit(CulpritKind.LINK, edge),
            factor,
        )

    def about_member(self, suspect: Culprit, ids: Collection[int], factor: float) -> Question:
        """What it sends, or receives, is slow, or both: either may be so only because acknowledgements are late."""
        (member,) = suspect.members
        witnesses = sorted(set(ids) - {member})[:WITNESSES]
        return Question(
            tuple((member, witness) for witness in witnesses),
            tuple((witness, member) for witness in witnesses),
            otherwise=suspect,
            factor=factor,
        )

    def missing(self, question: Question, since: float) -> list[Edge]:
        """What has not been measured since then."""
        return [edge for edge in question.asked if self._fresh(edge, since) is None]

    def _fresh(self, edge: Edge, since: float) -> float | None:
        row = self._rows.get(edge)
        return None if row is None else row.fresh(since)

    def decide(self, question: Question, since: float, usual: float, certain: bool) -> Decision | None:
        """When nothing is `missing`. ``usual``: bytes per second that the suspected flow used to carry. None when that is not
        ``certain`` to be slow, and no probe is."""
        suspect = question.otherwise.members
        times = {edge: self._times_slower(edge, since, usual, suspect) for edge in question.asked}
        text, slow = _shown(times), self._slow(question, times)
        if not certain and not slow:
            return None
        forth, back = question.ends
        turned = question.pair and times[question.pair[1]] > TURNED * times[question.pair[0]]
        ends = (back, forth) if turned else (forth,)
        for members, leave, come in ends:
            culprit = _blamed((members, leave, come), slow)
            if culprit is not None:
                return Decision(*culprit, text)
            if _most(leave, slow) and question.otherwise.kind is not CulpritKind.LINK:
                return Decision(CulpritKind.RANK, members, text)
        return Decision(question.otherwise.kind, ends[0][0], text)

    def decide_by_witnesses(self, question: Question, since: float, usual: float) -> Decision | None:
        """When the link itself is `missing`, over which a probe takes its time beside the run's traffic: the one end of which,
        with most others, one direction is slow. None when that is not plain. Of whom nothing is known is taken for well, but
        not about a member: there, most of both directions have to be known."""
        suspect = question.otherwise.members
        witnessed = question.out + question.into + question.back_out + question.back_into
        known = [edge for edge in witnessed if self._fresh(edge, since) is not None]
        times = {edge: self._times_slower(edge, since, usual, suspect) for edge in known}
        if not question.pair and not (_most(question.out, times) and _most(question.into, times)):
            return None
        slow = self._slow(question, times)
        found = [culprit for end in question.ends if (culprit := _blamed(end, slow)) is not None]
        return Decision(*found[0], _shown(times)) if len(found) == 1 else None

    def _slow(self, question: Question, times: Mapping[Edge, float]) -> set[Edge]:
        """Those that are more than halfway, by ratio, between well and as slow as the suspected flow."""
        line = max(self._limits.probe_slow, math.sqrt(question.factor))
        return {edge for edge, slower in times.items() if slower >= line}

    def _times_slower(self, edge: Edge, since: float, usual: float, suspect: Sequence[int]) -> float:
        """Than it was measured before; else than others are that have nothing to do with the suspect; else than is usual."""
        row, fresh = self._rows.of(edge), self._fresh(edge, since)
        assert fresh is not None
        before = row.before(since)
        if before is not None:
            return max(1e-3, before / fresh)
        others = [
            each.bandwidth
            for other, each in self._rows.items()
            if not set(other) & set(suspect) and each.bandwidth > 0.0
        ]
        expected = median(others) if others else usual
        return max(1e-3, expected / fresh)


def _blamed(end: End, slow: Container[Edge]) -> tuple[CulpritKind, tuple[int, ...]] | None:
    """Who is to blame at that end, if most that leaves, or most that comes, is slow, and not both."""
    members, leave, come = end
    out, into = _most(leave, slow), _most(come, slow)
    if out == into:
        return None
    return (CulpritKind.SENDER, members[:1]) if out else (CulpritKind.RECEIVER, members[-1:])


def _shown(times: Mapping[Edge, float]) -> str:
    shares = ", ".join(f"{one} to {other} {1 / slower:.0%}" for (one, other), slower in times.items())
    return f"probes: {shares} of what is expected"


def _most(edges: Sequence[Edge], of: Container[Edge]) -> bool:
    return 2 * sum(edge in of for edge in edges) > len(edges)
