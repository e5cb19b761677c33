"""Links that carry less than they used to: seconds per byte between each two members, against what is usual there (C4's delay
matrix, Dong et al. 2024).

Each sender's kernel tells in how much time how many bytes were acknowledged while some were on their way, and in how much of
it the receiver had no room. The rest, by bytes, is what the path takes; it is that of the path also in a schedule that waits
for other links, since time without anything to send does not count.

A cell of the matrix is hot when it takes `FACTOR` times what it did, in that kind of traffic, for `LEAST` of its last `OF`
observations. Then:

    hot                                                     blamed
    ------------------------------------------------------  --------------------------------------------------------------------
    most of the cells that carry anything                   nobody: the traffic has changed, or the network as a whole
    one, and most of what its sender sends is slower, too   what it sends (a row)
    one, and most of what its receiver gets is slower, too  what it receives (a column)
    one cell, and its ends send or receive elsewhere, too,  the link
    at the usual rate
    one cell, and its ends have no other traffic (a ring)   depends: their links with others are to be measured (`wanted`)

For the last case the answers decide: others slow from the sender, too: the sender; others slow to the receiver, too: the
receiver; both as usual: the link. If no answers come within `PATIENCE` seconds, the link is named, and less surely.

A healthy link is not accused: its cell is compared with itself, in the same kind of traffic, and what it shares with others
(cards, trunks, the machine) makes many cells hot, which names nobody or what they have in common.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low

from ..types import LinkRow
from .baseline import Baseline, Sustained
from .finding import Culprit, CulpritKind, Finding, Syndrome
from .observation import Observation

FACTOR = 4.0
LEAST, OF = 3, 4
LEAST_BYTES = 1 << 18  # in one observation
SKIP = 2  # the first observations of a kind of traffic do not count
PATIENCE = 15.0  # seconds, for measurements that were asked for
MEASURED_FACTOR = 2.0  # a link is slow by measurement
MOST_ASKED = 4  # links that are measured for one suspicion
MOST, FEW = 0.7, 0.25  # of a row or column that are slower, too: it is what they share; it is not
COMMON = 0.5  # of the cells: more have no culprit
COMMON_RATIO, COMMON_SECONDS = (
    1.5,
    20.0,
)  # most cells are so many times as slow as usual, for so long: that is usual now
HELD = 0.5  # of the time on the way in which the receiver took nothing
MOST_CELLS = 1 << 16

Cell = tuple[int, int]


@dataclass
class _Traffic:
    """Of one cell: what is usual, by kind of traffic, and how it is now."""

    usual: dict[object, Baseline] = field(default_factory=dict)
    slow: Sustained = field(default_factory=lambda: Sustained(LEAST, OF, 0))
    held: Sustained = field(default_factory=lambda: Sustained(LEAST, OF, 0))
    cost: float = 0.0  # seconds per byte, in the last observation
    before: float = 0.0  # and usually
    seen: float = 0.0  # when that was, if what is usual was known
    hot_since: float = 0.0

    @property
    def ratio(self) -> float:
        """Of what it takes now to what is usual."""
        return self.cost / self.before if self.before > 0 else 1.0


class SlowLinks:
    def __init__(self) -> None:
        self._cells: dict[Cell, _Traffic] = {}
        self._measured: dict[Cell, Baseline] = {}
        self._latest: dict[Cell, tuple[float, float]] = {}  # when, and bytes/s
        self._named: dict[Culprit, Collection[Cell]] = {}
        self._common_since = 0.0  # when all became slower
        self.wanted: list[Cell] = []

    # -- events -----------------------------------------------------------------------------------------------------

    def observe(self, observation: Observation) -> None:
        kind = _kind(observation)
        for flow in observation.flows:
            if flow.nbytes < LEAST_BYTES or flow.busy <= 0.0 or len(self._cells) > MOST_CELLS:
                continue
            cell = self._cells.setdefault((observation.member, flow.target), _Traffic())
            share = int(flow.nbytes / max(1, observation.operations_ended)).bit_length()
            traffic = kind, share  # another algorithm sends other shares, and shares links in other ways
            usual = cell.usual.setdefault(traffic, Baseline(SKIP))
            if len(cell.usual) > 64:
                cell.usual = {traffic: usual}
            cost = max(0.0, flow.busy - flow.held) / flow.nbytes
            hot = usual.warm and cost > FACTOR * usual.median and cost - usual.median > 6 * usual.spread
            cell.cost, cell.before = cost, usual.median
            if usual.warm:
                cell.seen = observation.at
            if cell.slow.look(hot) and cell.slow.holds:
                cell.hot_since = observation.at
            cell.held.look(usual.warm and flow.held > HELD * flow.busy and flow.held > 0.1 * observation.covers)
            if not cell.slow.holds and not (usual.warm and cost > FACTOR / 2 * usual.median):
                usual.learn(cost)

    def measured(self, now: float, rows: Iterable[LinkRow]) -> None:
        """Links were probed."""
        for row in rows:
            link = row.source, row.target
            known = self._measured.setdefault(link, Baseline())
            self._latest[link] = now, row.bandwidth
            if not known.median or row.bandwidth > known.median / MEASURED_FACTOR:
                known.learn(row.bandwidth)

    def keep_only(self, ids: Sequence[int]) -> None:
        here = set(ids)
        for table in (self._cells, self._measured, self._latest):
            for link in [link for link in table if not here.issuperset(link)]:
                del table[link]
        for cell in self._cells.values():
            cell.slow.forget()
            cell.held.forget()
        self._named = {}
        self.wanted = []

    # -- what follows -------------------------------------------------------------------------------------------------

    def find(self, now: float) -> list[Finding]:
        """New findings."""
        self.wanted = []
        hot = {link: cell for link, cell in self._cells.items() if cell.slow.holds}
        recent = {link for link, cell in self._cells.items() if now - cell.seen < 10.0}
        if len(recent) >= 4 and len(hot) > COMMON * len(recent):
            self._begin_anew(self._cells)
            return []
        common = max(1.0, median_low([self._cells[link].ratio for link in recent])) if recent else 1.0
        self._common_since = self._common_since or now if common > COMMON_RATIO else 0.0
        if self._common_since and now - self._common_since > COMMON_SECONDS:
            self._begin_anew(self._cells)
            return []
        hot = {link: cell for link, cell in hot.items() if cell.ratio > FACTOR / 2 * common}  # slow beyond all others
        found = []
        for culprit, cells, sure in self._culprits(now, hot, recent):
            if culprit not in self._named:
                self._named[culprit] = cells
                found.append(self._finding(now, culprit, [hot[link] for link in cells], sure))
        return found + self._slow_receivers(now)

    def over(self) -> list[Culprit]:
        """Who was named, and is as usual again."""
        over = [
            culprit
            for culprit, cells in self._named.items()
            if not any(
                self._cells[link].slow.holds or self._cells[link].held.holds for link in cells if link in self._cells
            )
        ]
        for culprit in over:
            del self._named[culprit]
        return over

    def _begin_anew(self, cells: Mapping[Cell, _Traffic]) -> None:
        """What they have in common is the new usual."""
        self._common_since = 0.0
        for cell in cells.values():
            cell.slow.forget()
            cell.usual.clear()

    def _culprits(
        self, now: float, hot: Mapping[Cell, _Traffic], recent: Collection[Cell]
    ) -> list[tuple[Culprit, list[Cell], float]]:
        rows, columns = _by(hot, 0), _by(hot, 1)
        out, into = _by(recent, 0), _by(recent, 1)
        found: list[tuple[Culprit, list[Cell], float]] = []
        explained: set[Cell] = set()
        for kind, groups, active in (
            (CulpritKind.SENDER, rows, out),
            (CulpritKind.RECEIVER, columns, into),
        ):
            for member, cells in groups.items():
                raised = [link for link in active[member] if self._cells[link].ratio > FACTOR / 2]
                if len(raised) >= max(2, round(MOST * len(active[member]))):
                    found.append((Culprit(kind, (member,)), cells, 0.9))
                    explained.update(raised)
        for link in hot:
            if link in explained:
                continue
            culprit, sure = self._of_one(now, link, hot[link], out, into)
            if culprit is not None:
                found.append((culprit, [link], sure))
        return found

    def _of_one(
        self,
        now: float,
        link: Cell,
        cell: _Traffic,
        out: Mapping[int, list[Cell]],
        into: Mapping[int, list[Cell]],
    ) -> tuple[Culprit | None, float]:
        source, target = link
        others_out = [one for one in out[source] if one != link]
        others_into = [one for one in into[target] if one != link]
        whole = Culprit(CulpritKind.LINK, link)
        if others_out and others_into:
            raised = [one for one in (*others_out, *others_into) if self._cells[one].ratio > FACTOR / 2]
            unclear = len(raised) > FEW * (len(others_out) + len(others_into))
            return (None, 0.0) if unclear and now - cell.hot_since < PATIENCE else (whole, 0.5 if unclear else 0.9)
        known = [other for other in self._measured if other != link and (other[0] == source or other[1] == target)]
        fresh_out = [self._is_slow(one) for one in known if one[0] == source and self._is_new(one, cell)]
        fresh_into = [self._is_slow(one) for one in known if one[1] == target and self._is_new(one, cell)]
        if (not others_out and not fresh_out) or (not others_into and not fresh_into):
            if now - cell.hot_since > PATIENCE or not known:
                return whole, 0.5
            self.wanted += [one for one in known if one[0] == source and not others_out][: MOST_ASKED // 2]
            self.wanted += [one for one in known if one[1] == target and not others_into][: MOST_ASKED // 2]
            return None, 0.0
        if fresh_out and all(fresh_out):
            return Culprit(CulpritKind.SENDER, (source,)), 0.85
        if fresh_into and all(fresh_into):
            return Culprit(CulpritKind.RECEIVER, (target,)), 0.85
        return whole, 0.85

    def _is_new(self, link: Cell, cell: _Traffic) -> bool:
        return link in self._latest and self._latest[link][0] > cell.hot_since

    def _is_slow(self, link: Cell) -> bool:
        usual = self._measured[link].median
        return usual > 0 and self._latest[link][1] * MEASURED_FACTOR < usual

    def _slow_receivers(self, now: float) -> list[Finding]:
        """Who does not take what has come: its own work holds it up, not the network."""
        held = [link for link, cell in self._cells.items() if cell.held.holds]
        found = []
        for member, cells in _by(held, 1).items():
            culprit = Culprit(CulpritKind.RANK, (member,))
            senders = [link for link, cell in self._cells.items() if link[1] == member and now - cell.seen < 10.0]
            if len(cells) == len(senders) and culprit not in self._named:
                self._named[culprit] = cells
                text = f"{len(cells)} of {len(senders)} members that send to member {member} wait for it to take what has come"
                found.append(Finding(Syndrome.NON_COMMUNICATION_SLOW, culprit, now, text, 0.75))
        return found

    def _finding(self, now: float, culprit: Culprit, cells: Sequence[_Traffic], sure: float) -> Finding:
        worst = max(cells, key=lambda cell: cell.cost / cell.before if cell.before else 0.0)
        factor = worst.cost / worst.before if worst.before else 0.0
        where = {
            CulpritKind.LINK: "the link from member {} to member {} carries",
            CulpritKind.SENDER: "what member {} sends moves at",
            CulpritKind.RECEIVER: "what member {} receives moves at",
            CulpritKind.RANK: "member {} moves",
        }[culprit.kind].format(*culprit.members)
        text = f"{where} {_rate(worst.cost)}, usually {_rate(worst.before)}"
        return Finding(Syndrome.COMMUNICATION_SLOW, culprit, now, text, sure, None, factor)


def _by(links: Iterable[Cell], end: int) -> Mapping[int, list[Cell]]:
    found: defaultdict[int, list[Cell]] = defaultdict(list)
    for link in links:
        found[link[end]].append(link)
    return found


def _kind(observation: Observation) -> object:
    """What most of the traffic was for: a ring and a direct exchange share links in other ways."""
    weights: Counter[tuple[str, int]] = Counter()
    for sample in observation.samples:
        weights[sample.kind, sample.nbytes.bit_length()] += sample.nbytes
    return weights.most_common(1)[0][0] if weights else None


def _rate(cost: float) -> str:
    return f"{1e-6 / cost:.3g} MB/s" if cost > 0 else "any rate"
