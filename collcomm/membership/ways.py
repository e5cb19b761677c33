"""How each pair of members comes by connections: the coordinator's choice, when dialling in the usual way does not work.

    way       event                                               becomes
    --------  --------------------------------------------------  ----------------------------------------------------
    DIRECT    the later member cannot dial the earlier            REVERSED; RELAY if the later says that it is dialled in vain
    REVERSED  the earlier cannot dial the later                   RELAY
    RELAY r   one cannot dial r, or the other does not come to r  RELAY s, another member
    any       no relay is left, or ``MOST_RELAYS`` were tried     DIRECT again: the pair is out of reach, and is told so
    RELAY r   r is no longer a member                             RELAY s, or DIRECT if there is none
    RELAY r   a view is made, and the pair had been linked        DIRECT again: the path that broke may be whole again
              without a relay, `RETURN_SECONDS` or more ago

A relay is a member, or, when none is left to be tried, the coordinator's process if it relays.

Each step raises the pair's number, so both ends can tell the newer of two ways, and reports of older ones are void.

Why it ends: each step leaves a kind or a relay that is not tried again in that view, so after 2 + ``MOST_RELAYS`` + 1 steps the
pair is out of reach. The caller takes that for a broken link, as ever, and sets one of the two aside when it goes on. From a
relay the pair returns with a new view only, and when that was in vain, not before twice as long.

Why both ends agree: only the coordinator steps, on the reports of either end, and tells both; the greeting of a data
connection has the number, and who knows a later one turns it away (`transports.handshake`). A view carries the ways, so
newcomers and who was away know them, and so does the next coordinator, from the view as its peers report it. What was found
out after that view and lost with its coordinator is found out again.

The relay is chosen from what is known alone, so the same history gives the same relay: none that either end has dialled in
vain or that says it cannot be dialled; first those that nobody has dialled in vain (who can be dialled by some is likely to be
by others), of these the one that relays for the fewest pairs, of equals the earliest (whom all others dial in the usual way, and
have links with already, most likely).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..types import COORDINATOR, Member, Way, WayKind, first_way
from .messages import MAX_WAYS

MOST_RELAYS = 3  # tried for one pair in a row: each costs seconds
RETURN_SECONDS = 60.0  # through a relay, until a path that there was is tried again; in vain, then twice as long ...
MOST_RETURN_SECONDS = 3600.0  # ... up to that

Pair = tuple[int, int]


class _Return:
    """Of a pair whose link broke: when its path is to be tried again, and for how long the pair will be relayed after that."""

    def __init__(self) -> None:
        self.due = math.inf
        self.wait = RETURN_SECONDS

    def put_off(self, now: float) -> None:
        self.due = now + self.wait
        self.wait = min(2.0 * self.wait, MOST_RETURN_SECONDS)


class Ways:
    """Of the members of a view; pairs that are not here are linked in their `first_way`."""

    def __init__(self) -> None:
        self.coordinator_relays = False
        self._members: dict[int, Member] = {}
        self._ways: dict[Pair, Way] = {}
        self._tried: dict[Pair, set[int]] = {}  # relays
        self._returns: dict[Pair, _Return] = {}
        self._in_vain: set[tuple[int, int]] = set()  # who dialled whom, and got no answer though it lives

    @property
    def rows(self) -> list[list[int]]:
        """As a view announces them."""
        return [self._ways[pair].row for pair in sorted(self._ways)]

    def resume(self, rows: Iterable[Sequence[int]]) -> None:
        """Go on from what a view has announced."""
        self._ways = {way.pair: way for way in map(Way.of, rows)}

    def adopt(self, now: float, members: Iterable[Member]) -> list[Way]:
        """The members of the view that is about to be announced. Returns the ways of pairs that return from their relays."""
        self._members = {member.id: member for member in members}
        here = self._members.keys()
        self._in_vain = {pair for pair in self._in_vain if here >= set(pair)}
        self._ways = {pair: way for pair, way in self._ways.items() if here >= set(pair)}
        self._tried = {
            pair: tried & (here | {COORDINATOR}) for pair, tried in self._tried.items() if pair in self._ways
        }
        self._returns = {pair: back for pair, back in self._returns.items() if here >= set(pair)}
        returning = []
        for pair, way in list(self._ways.items()):
            if way.kind is not WayKind.RELAY:
                continue
            if pair in self._returns and now >= self._returns[pair].due:
                self._tried.pop(pair, None)
                self._in_vain -= {pair, pair[::-1]}
                returning.append(self._begin(pair))
            elif way.relay not in here and way.relay != COORDINATOR:
                self._relayed(pair) or self._begin(pair)
        return returning

    def way(self, first: int, second: int) -> Way:
        pair = (min(first, second), max(first, second))
        return self._ways.get(pair) or self._first(pair)

    def of(self, member: int) -> list[Way]:
        """What ``member`` has to know."""
        return [way for pair, way in sorted(self._ways.items()) if member in pair]

    def broke(self, pair: Pair) -> None:
        """There was a link, so its path was good, and may be again."""
        way = self._ways.get(pair)
        if (way is None or way.kind is not WayKind.RELAY) and (pair in self._returns or len(self._returns) < MAX_WAYS):
            self._returns[pair] = _Return()

    def failed(self, now: float, reporter: int, other: int, dialled: int) -> Way | None:
        """No connection came about in the present way: ``reporter`` dialled ``dialled``, ``other`` or the relay, which lives.
        Returns the next way, None if there is none: the pair is out of reach for now, and begins at the beginning again."""
        way = self.way(reporter, other)
        self._in_vain.add((reporter, dialled))
        if way.kind is WayKind.RELAY:
            self._tried.setdefault(way.pair, set()).add(way.relay)
        if way.pair not in self._ways and len(self._ways) >= MAX_WAYS:
            return None
        if way.kind is WayKind.DIRECT and not self._members[way.pair[1]].outward:
            return self._step(way.pair, WayKind.REVERSED)
        next_way = self._relayed(way.pair)
        if next_way is None:
            self._tried.pop(way.pair, None)
            self._in_vain = {pair for pair in self._in_vain if not set(way.pair) & set(pair)}
            self._begin(way.pair)
        elif way.kind is not WayKind.RELAY and way.pair in self._returns:
            self._returns[way.pair].put_off(now)
        return next_way

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

    def _begin(self, pair: Pair) -> Way:
        return self._step(pair, self._first(pair).kind)

    def _relayed(self, pair: Pair) -> Way | None:
        """Through the next relay. None: there is none."""
        tried = self._tried.get(pair, set())
        found = self._candidates(pair, tried) if len(tried) < MOST_RELAYS else []
        if found:
            return self._step(pair, WayKind.RELAY, min(found)[2])
        if self.coordinator_relays and COORDINATOR not in tried:
            return self._step(pair, WayKind.RELAY, COORDINATOR)
        return None

    def _candidates(self, pair: Pair, tried: set[int]) -> list[tuple[bool, int, int]]:
        """The best is the least."""
        closed = {dialled for _, dialled in self._in_vain}
        busy: dict[int, int] = {}
        for way in self._ways.values():
            busy[way.relay] = busy.get(way.relay, 0) + 1
        return [
            (member.id in closed, busy.get(member.id, 0), member.id)
            for member in self._members.values()
            if member.id not in tried
            and member.id not in pair
            and not member.outward
            and not any((end, member.id) in self._in_vain for end in pair)
        ]
