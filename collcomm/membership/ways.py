"""How each pair of members comes by connections: the coordinator's choice, when dialling in the usual way does not work.

    way       event                                               becomes
    --------  --------------------------------------------------  ----------------------------------------------------
    DIRECT    the later member cannot dial the earlier            REVERSED; RELAY if the later says that it is dialled in vain
    REVERSED  the earlier cannot dial the later                   RELAY
    RELAY r   one cannot dial r, or the other does not come to r  RELAY s, another member
    any       no relay is left, or ``MOST_RELAYS`` were tried     DIRECT again: the pair is out of reach, and is told so
    RELAY r   r is no longer a member                             RELAY s, or DIRECT if there is none

Each step raises the pair's number, so both ends can tell the newer of two ways, and reports of older ones are void.

Why it ends: within one number each step leaves a kind or a relay that is not tried again, so after 2 + ``MOST_RELAYS`` steps the pair is
out of reach, which the caller takes for a broken link as ever (and sets one aside when that goes on).

Why both ends agree: only the coordinator steps, on the reports of either end, and tells both; the greeting of a data connection has
the number, and who knows a later one turns it away (`transports.handshake`). A view carries the ways, so newcomers and who was
away know them, and so does the next coordinator, from the view as its peers report it. What was found out after that view
and lost with its coordinator is found out again.

The relay is chosen from what is known alone, so the same history gives the same relay: none that either end has dialled in vain or
that says it cannot be dialled; first those that nobody has dialled in vain (who can be dialled by some is likely to be by others),
of these the one that relays for the fewest pairs, of equals the earliest (whom all others dial in the usual way, and have links
with already, most likely).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..types import Member, Way, WayKind, first_way
from .messages import MAX_WAYS

MOST_RELAYS = 3  # tried for one pair in a row: each costs seconds

Pair = tuple[int, int]


class Ways:
    """Of the members of a view; pairs that are not here are linked in their `first_way`."""

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self._ways: dict[Pair, Way] = {}
        self._tried: dict[Pair, set[int]] = {}  # relays
        self._in_vain: set[tuple[int, int]] = set()  # who dialled whom, and got no answer though it lives

    @property
    def rows(self) -> list[list[int]]:
        """As a view announces them."""
        return [self._ways[pair].row for pair in sorted(self._ways)]

    def resume(self, rows: Iterable[Sequence[int]]) -> None:
        """Go on from what a view has announced."""
        self._ways = {way.pair: way for way in map(Way.of, rows)}

    def adopt(self, members: Iterable[Member]) -> None:
        """The members of the view that is about to be announced."""
        self._members = {member.id: member for member in members}
        here = self._members.keys()
        self._in_vain = {pair for pair in self._in_vain if here >= set(pair)}
        self._ways = {pair: way for pair, way in self._ways.items() if here >= set(pair)}
        self._tried = {pair: tried & here for pair, tried in self._tried.items() if pair in self._ways}
        for pair, way in list(self._ways.items()):
            if way.kind is WayKind.RELAY and way.relay not in here:
                relay = self._relay(pair)
                first = self._first(pair).kind
                self._step(pair, WayKind.RELAY if relay else first, relay)

    def way(self, first: int, second: int) -> Way:
        pair = (min(first, second), max(first, second))
        return self._ways.get(pair) or self._first(pair)

    def of(self, member: int) -> list[Way]:
        """What ``member`` has to know."""
        return [way for pair, way in sorted(self._ways.items()) if member in pair]

    def failed(self, reporter: int, other: int, dialled: int) -> Way | None:
        """No connection came about in the present way: ``reporter`` dialled ``dialled``, ``other`` or the relay, which lives.
        Returns the next way, None if there is none: the pair is out of reach for now, and begins at the beginning again."""
        way = self.way(reporter, other)
        self._in_vain.add((reporter, dialled))
        if way.kind is WayKind.RELAY:
            self._tried.setdefault(way.pair, set()).add(way.relay)
        if way.pair not in self._ways and len(self._ways) >= MAX_WAYS:
            return None
        earlier, later = (self._members[member] for member in way.pair)
        if way.kind is WayKind.DIRECT and not later.outward:
            return self._step(way.pair, WayKind.REVERSED)
        relay = self._relay(way.pair)
        if relay:
            return self._step(way.pair, WayKind.RELAY, relay)
        self._tried.pop(way.pair, None)
        self._in_vain = {pair for pair in self._in_vain if not set(way.pair) & set(pair)}
        self._step(way.pair, self._first(way.pair).kind)
        return None

    def is_dialled_in_vain(self, member: Member) -> bool:
        """Whether that nobody gets an answer at its address says nothing of its life."""
        return member.outward or any(dialled == member.id for _, dialled in self._in_vain)

    def _first(self, pair: Pair) -> Way:
        earlier, later = (self._members[member] for member in pair)
        return first_way(earlier, later)

    def _step(self, pair: Pair, kind: WayKind, relay: int = 0) -> Way:
        way = replace(self.way(*pair), kind=kind, relay=relay)
        way = self._ways[pair] = replace(way, number=way.number + 1)
        return way

    def _relay(self, pair: Pair) -> int:
        """0: there is none."""
        tried = self._tried.get(pair, set())
        if len(tried) >= MOST_RELAYS:
            return 0
        closed = {dialled for _, dialled in self._in_vain}
        busy: dict[int, int] = {}
        for way in self._ways.values():
            busy[way.relay] = busy.get(way.relay, 0) + 1
        found = [
            (member.id in closed, busy.get(member.id, 0), member.id)
            for member in self._members.values()
            if member.id not in tried
            and member.id not in pair
            and not member.outward
            and not any((end, member.id) in self._in_vain for end in pair)
        ]
        return min(found)[2] if found else 0
