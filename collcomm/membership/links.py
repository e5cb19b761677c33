"""The links between live members: by which way each comes about, who dials whom in vain, and which break again and again.

A link that breaks is made anew; when it breaks too often, one of the two is set aside. A link that does not come about because
one end is dialled in vain goes by the next of its `ways`, and only counts as broken when there is none left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..types import COORDINATOR, Member, View, Way, WayKind
from .effects import Outbox
from .messages import Message
from .roster import Peer, Roster
from .ways import Ways

LINK_FAULTS = 3  # so many times in LINK_SECONDS, and the link is the fault of whoever more peers complain about
LINK_SECONDS = 30.0  # each attempt to dial a path that is cut takes some seconds

Pair = tuple[int, int]


class DialledInVain(NamedTuple):
    """For its link with ``other``, by the way of that number, ``reporter`` has dialled ``dialled``: ``other``, or a relay."""

    reporter: int
    dialled: int
    other: int
    number: int


class LinkFaults:
    """When the link of each pair of members broke, by the coordinator's time."""

    def __init__(self) -> None:
        self._faults: dict[Pair, list[float]] = {}

    def broke(self, now: float, pair: Pair) -> int | None:
        """A link broke although both ends live. Returns the member to set aside, None while the link deserves another try:
        of the two the one in more broken links, of equals the later one."""
        recent = [at for at in self._faults.get(pair, ()) if now - at < LINK_SECONDS]
        self._faults[pair] = [*recent, now]
        if len(recent) + 1 < LINK_FAULTS:
            return None
        del self._faults[pair]
        counts = {member: sum(member in other for other in self._faults) for member in pair}
        return max(pair, key=lambda member: (counts[member], member))


class Links:
    """Of the members of the present view."""

    def __init__(self, roster: Roster, out: Outbox):
        self.faults = LinkFaults()
        self._roster = roster
        self._out = out
        self._epoch = 0
        self._ways = Ways()
        self._in_vain: dict[Pair, DialledInVain] = {}  # by who dialled whom

    @property
    def rows(self) -> list[list[int]]:
        """How pairs are linked that are not linked in the usual way, as a view announces it."""
        return self._ways.rows

    def resume(self, epoch: int, rows: Iterable[Sequence[int]]) -> None:
        """Go on from what view ``epoch`` has announced."""
        self._epoch = epoch
        self._ways.resume(rows)

    def adopt(self, now: float, view: View, coordinator_relays: bool) -> None:
        """``view`` is about to be announced."""
        self._epoch = view.epoch
        self._ways.coordinator_relays = coordinator_relays
        for way in self._ways.adopt(now, view.members):
            one, other = map(self._name, way.pair)
            self._out.note(f"{one} and {other}, whose link broke, are to be linked {self._how(way)} again")
        self._in_vain.clear()

    def tell(self, peer: Peer) -> None:
        """All ways that ``peer`` has to know."""
        for way in self._ways.of(peer.member.id):
            self._tell(peer, way)

    def is_dialled_in_vain(self, member: Member) -> bool:
        """Whether that nobody gets an answer at its address says nothing of its life."""
        return self._ways.is_dialled_in_vain(member)

    def unreachable(self, reporter: Peer, message: Message) -> DialledInVain | None:
        """``reporter`` has dialled in vain; None when there is nothing to be made of what it says. Kept, until it is known
        whether the dialled one lives (`report`); of the coordinator that is known."""
        report = DialledInVain(reporter.member.id, message["dialled"], message["member"], message["number"])
        way = self._ways.way(report.reporter, report.other)
        if report.number != way.number:
            self._tell(reporter, way)  # it has not heard of it yet
            return None
        if report.dialled == COORDINATOR:
            return report if way.kind is WayKind.RELAY and way.relay == COORDINATOR else None
        if report.dialled not in (report.other, way.relay) or self._roster.of(report.dialled) is None:
            return None
        self._in_vain[report.reporter, report.dialled] = report
        return report

    def report(self, reporter: int, dialled: int) -> DialledInVain | None:
        """What was kept of the two; no longer."""
        return self._in_vain.pop((reporter, dialled), None)

    def lost(self, reporter: int, other: int) -> None:
        """``reporter`` says that there was a link of the two until now."""
        self._ways.broke((min(reporter, other), max(reporter, other)))

    def reroute(self, now: float, report: DialledInVain) -> bool:
        """Whoever was dialled lives: tell both ends the next way. False when there is none: their link is broken."""
        other = self._roster.of(report.other)
        if other is None or report.number != self._ways.way(report.reporter, report.other).number:
            return True  # another report was before it
        way = self._ways.failed(now, report.reporter, report.other, report.dialled)
        if way is None:
            return False
        for member in way.pair:
            self._tell(self._roster.peer(member), way)
        reporter = self._name(report.reporter)
        self._out.note(f"{reporter} and {other.member.name} are to be linked {self._how(way)}")
        return True

    def _tell(self, peer: Peer, way: Way) -> None:
        self._out.send(peer.key, {"t": "way", "epoch": self._epoch, "way": way.row})

    def _how(self, way: Way) -> str:
        if way.kind is WayKind.RELAY:
            return "through the coordinator" if way.relay == COORDINATOR else f"through {self._name(way.relay)}"
        return f"by a connection from {self._name(way.maker)}"

    def _name(self, member: int) -> str:
        return self._roster.peer(member).member.name
