"""Links that break while both ends live: what peers say of broken ones, and flows that stood still for a while.

That a link was "closed" may be an accident (a firewall's reboot, an idle timeout); `Limits.flaps` of these make one that comes
and goes. That what was sent is "unacked" says that the other kernel has not answered for longer than a working path ever takes:
one is enough, if both ends are still members `Limits.settle` seconds later, and nothing has moved since, or the link broke again;
else one of them died, or the link is only slow, with queues that lose packets, and it is not to blame for this. What goes through
a relay breaks with either of the links that it takes, and is left out.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection

from .culprits import Edge, Suspect, suspects
from .finding import Culprit, CulpritKind, Finding, Syndrome
from .keeping import Keeping
from .limits import Limits

MOST_LINKS = 4096
MOST_BREAKS = 32  # of one link that are remembered


class _Link:
    def __init__(self) -> None:
        self.at: deque[float] = deque(maxlen=MOST_BREAKS)
        self.edge: Edge | None = None  # the direction that stood still, where that is known
        self.unanswered_at = -math.inf  # when an end said last that nothing was acknowledged


class Breaks:
    def __init__(self, limits: Limits):
        self._limits = limits
        self._links: Keeping[Edge, _Link] = Keeping(_Link, MOST_LINKS)
        self.relayed: frozenset[Edge] = frozenset()  # pairs of members that are linked through a third

    def keep(self, ids: Collection[int]) -> None:
        for pair in [pair for pair, _ in self._links.items() if not set(pair) <= set(ids)]:
            self._links.pop(pair)

    def accused(self, now: float, reporter: int, member: int, evidence: str) -> None:
        if self.is_relayed((reporter, member)):
            return
        link = self._broke(now, _pair((reporter, member)))
        if evidence == "unacked":
            link.unanswered_at = now

    def stood_still(self, now: float, edge: Edge) -> None:
        if self.is_relayed(edge):
            return
        self._broke(now, _pair(edge)).edge = edge

    def is_relayed(self, edge: Edge) -> bool:
        return _pair(edge) in self.relayed

    def _broke(self, now: float, pair: Edge) -> _Link:
        link = self._links.of(pair)
        if not link.at or now - link.at[-1] > self._limits.flap_apart:
            link.at.append(now)
        return link

    def since(self, when: float) -> set[Edge]:
        """Directions, or pairs where these are not known, of what has broken since."""
        return {link.edge or pair for pair, link in self._links.items() if link.at and link.at[-1] >= when}

    def broke_lately(self, now: float, edge: Edge, seconds: float) -> bool:
        link = self._links.get(_pair(edge))
        return link is not None and bool(link.at) and now - link.at[-1] < seconds

    def claims(
        self, now: float, traffic: Callable[[float], Collection[Edge]], moved_at: Callable[[Edge], float]
    ) -> list[Finding]:
        """Links that broke again and again, or without an answer, or the member that all of them are of. ``moved_at``: when
        something was acknowledged last."""
        counts = {
            link.edge or pair: len([at for at in link.at if now - at <= self._limits.flap_seconds])
            for pair, link in self._links.items()
        }
        silent = {
            link.edge or pair: link.unanswered_at
            for pair, link in self._links.items()
            if now - link.unanswered_at <= self._limits.flap_seconds
            and (counts[link.edge or pair] > 1 or max(moved_at(pair), moved_at(pair[::-1])) <= link.unanswered_at)
        }
        often = {edge for edge, count in counts.items() if count >= self._limits.flaps}
        often |= {edge for edge, at in silent.items() if now - at >= self._limits.settle}
        if not often:
            return []
        as_good_as = {edge for edge, count in counts.items() if count >= self._limits.flaps - 1} | silent.keys()
        pairs = {edge for edge in traffic(now) if edge[::-1] not in as_good_as} | as_good_as
        found = []
        for suspect in suspects(as_good_as, pairs, self._limits.row_share):
            if suspect.edges & often:
                unanswered = not silent.keys().isdisjoint(suspect.edges)
                found.append(self._finding(now, suspect, max(counts[edge] for edge in suspect.edges), unanswered))
        return found

    def _finding(self, now: float, suspect: Suspect, count: int, unanswered: bool) -> Finding:
        culprit, members = suspect.culprit, suspect.culprit.members
        if culprit.kind is CulpritKind.LINK:
            text = f"the link between members {members[0]} and {members[1]} broke {_times(count)}"
        else:
            culprit = Culprit(CulpritKind.RANK, members)
            text = f"{len(suspect.edges)} links of member {members[0]} broke, each up to {_times(count)}"
        text += f" within {self._limits.flap_seconds:g} s"
        text += ", nothing that was sent was acknowledged, and all live" if unanswered else " and came back"
        return Finding(Syndrome.COMMUNICATION_HANG, culprit, now, text, 0.85)


def _pair(edge: Edge) -> Edge:
    return (min(edge), max(edge))


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
