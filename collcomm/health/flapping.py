"""Links that break between members who both live: by what their ends report to the coordinator.

A report of "unacked" says that the other kernel has not answered for longer than a path that works ever takes: one is enough, if
both ends are still members `SETTLE` seconds later; else one of them died, and the link is not to blame. "closed" may be an
accident (a firewall's reboot, an idle timeout): `OFTEN` within `WITHIN` seconds make a link that flaps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .finding import Culprit, CulpritKind, Finding, Syndrome

SETTLE = 2.0
WITHIN = 60.0
OFTEN = 3
MOST_REPORTS = 256
MOST_PAIRS = 4096

Pair = tuple[int, int]


class BrokenLinks:
    def __init__(self) -> None:
        self._reports: dict[Pair, deque[tuple[float, str]]] = {}
        self._named: set[Pair] = set()
        self._ids: tuple[int, ...] = ()

    def view_changed(self, now: float, ids: Sequence[int]) -> None:
        self._ids = tuple(ids)
        here = set(ids)
        self._reports = {pair: one for pair, one in self._reports.items() if here.issuperset(pair)}
        self._named = {pair for pair in self._named if here.issuperset(pair)}

    def accused(self, now: float, reporter: int, member: int, evidence: str) -> None:
        pair = min(reporter, member), max(reporter, member)
        if pair not in self._reports and len(self._reports) >= MOST_PAIRS:
            return
        reports = self._reports.setdefault(pair, deque(maxlen=MOST_REPORTS))
        if (
            not reports or now - reports[-1][0] > 0.5 or reports[-1][1] != evidence
        ):  # both ends say it, and say it again
            reports.append((now, evidence))

    def find(self, now: float) -> list[Finding]:
        suspects = [pair for pair, reports in self._reports.items() if pair not in self._named and _holds(now, reports)]
        shared = _shared(suspects)
        if shared is not None:
            self._named.update(suspects)
            text = f"member {shared} has lost its links to {len(suspects)} members, who all live"
            return [Finding(Syndrome.COMMUNICATION_HANG, Culprit(CulpritKind.RANK, (shared,)), now, text, 0.7)]
        self._named.update(suspects)
        return [self._finding(now, pair) for pair in suspects]

    def over(self, now: float) -> list[Pair]:
        """Those that were named, and have not been reported for a while."""
        over = [pair for pair in self._named if now - self._reports[pair][-1][0] > WITHIN]
        self._named.difference_update(over)
        return over

    def knows(self, finding: Finding) -> bool:
        members = finding.culprit.members
        return finding.since is None and len(members) == 2 and (min(members), max(members)) in self._named

    def _finding(self, now: float, pair: Pair) -> Finding:
        reports = self._reports[pair]
        unanswered = sum(evidence == "unacked" for _, evidence in reports)
        text = (
            f"the link between members {pair[0]} and {pair[1]} broke {len(reports)} times within {WITHIN:.0f} s, "
            f"{unanswered} times without any answer, and both live"
        )
        return Finding(Syndrome.COMMUNICATION_HANG, Culprit(CulpritKind.LINK, pair), now, text, 0.9)


def _holds(now: float, reports: deque[tuple[float, str]]) -> bool:
    recent = [(at, evidence) for at, evidence in reports if now - at <= WITHIN]
    settled = [at for at, evidence in recent if evidence == "unacked" and now - at >= SETTLE]
    return bool(settled) or len(recent) >= OFTEN


def _shared(pairs: Sequence[Pair]) -> int | None:
    """The member that three links or more have in common."""
    if len(pairs) < 3:
        return None
    common = set(pairs[0]).intersection(*pairs[1:])
    return common.pop() if len(common) == 1 else None
