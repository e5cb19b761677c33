"""How this peer and each of the others come by connections, as their coordinator has told both.

The usual way is that the later member dials. Who cannot be dialled (address translation, closed ports) dials instead; where
neither can be dialled, both dial a `relay`. Whoever dials in vain says so to the coordinator, which finds out whether the
other lives, and if so tells both the next way (`collcomm.membership.ways`). Of two ways of one view the one with the higher
number holds.

Who waits for a link that the other has to make, in a way that was changed, calls the other through the coordinator: its
program may believe that the link is not its part. Every wait has an end: for a connection, for the relay's other line, for the
coordinator's word; what is not settled by then is a broken link, as without all this.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..types import COORDINATOR, Booth, Member, Way, WayKind, first_way
from .base import LinkBroken, LinkKey

ALTERNATIVE_SECONDS = 2.0  # to connect, while there is another way: a lost SYN is sent again after one second
SETTLE_SECONDS = 6.0  # for the coordinator to find out who lives, and to say how to go on
REPEAT_SECONDS = 1.0  # a control connection may have lost what was said
COMING_SECONDS = 2.0  # so long a line that has come to the relay may wait for the other one before another is made
AT_WORK = float("inf")
MOST_CALLS = 16  # served at once; whoever is not served calls again
Want = tuple[LinkKey, int, int]  # a link, in a view, by the way of this number


class Asker(Protocol):
    """Tells the coordinator; never waits."""

    def unreachable(self, member: int, epoch: int, number: int, dialled: int, text: str) -> None: ...

    def call(self, member: int, epoch: int, gid: int, purpose: int, stream: int, streams: int) -> None: ...


class Unreached(LinkBroken):
    """By its way ``number``, ``member`` could not be had: ``dialled``, it or the relay, did not answer."""

    def __init__(self, member: int, dialled: int, number: int, evidence: str, text: str):
        super().__init__(member, evidence, text)
        self.dialled = dialled
        self.number = number


class Rerouted(Exception):
    """The way has changed while a link was being made."""


class Reach:
    """The ways of one peer. ``asker``: None where there is nobody to ask; then the usual way is the only one."""

    def __init__(self) -> None:
        self.asker: Asker | None = None
        self._member = -1
        self._members: Mapping[int, Member] = {}
        self._booth: Booth | None = None
        self._ways: dict[int, Way] = {}  # by the other member
        self._called_at: dict[Want, float] = {}
        self._serving: dict[Want, float] = {}  # since when; those that came to a relay a while ago may be served again
        self._lock = threading.Lock()

    def introduce(self, member: int) -> None:
        self._member = member

    def adopt(self, members: Iterable[Member], ways: Iterable[Way], booth: Booth | None) -> dict[int, int]:
        """A new view. Returns the numbers of ways by member."""
        self._booth = booth
        self._members = {member.id: member for member in members}
        self._ways = {self._other(way): way for way in ways}
        return self._numbers()

    def reroute(self, way: Way) -> dict[int, int]:
        other = self._other(way)
        if other in self._members and way.number > self.way(other).number:
            self._ways = {**self._ways, other: way}
        return self._numbers()

    def way(self, member: int) -> Way:
        """To ``member``, which is made by the later of the two if nothing else is known."""
        known = self._ways.get(member)
        if known is not None:
            return known
        here, there = self._members.get(self._member), self._members.get(member)
        if here is None or there is None:
            return Way((min(self._member, member), max(self._member, member)))
        return first_way(here, there)

    def makes(self, member: int) -> bool:
        return self.way(member).maker == self._member

    def relay(self, way: Way, epoch: int, keys: Mapping[int, bytes]) -> tuple[Member, int, bytes]:
        """Whom to dial, and the epoch and key to greet it with. ``keys``: of members in ``epoch``. Raises Rerouted when it has
        gone."""
        booth = self._booth
        if way.relay == COORDINATOR and booth is not None:
            return Member(COORDINATOR, "the coordinator", booth.host, booth.port), booth.number, booth.key
        relay, key = self._members.get(way.relay), keys.get(way.relay)
        if relay is None or key is None:
            raise Rerouted
        return relay, epoch, key

    def route_of(self, member: int) -> str | tuple[str, int]:
        """How links with ``member`` go: "direct", "reversed" (the earlier member dials), or ("relay", who is between: 0 is the
        coordinator)."""
        way = self.way(member)
        if way.kind is WayKind.RELAY:
            return "relay", way.relay
        return "direct" if way.kind is WayKind.DIRECT else "reversed"

    # -- asking --------------------------------------------------------------------------------------------------------

    def report(self, epoch: int, failure: Unreached) -> None:
        if self.asker is not None:
            self.asker.unreachable(failure.member, epoch, failure.number, failure.dialled, failure.text)

    def call(self, epoch: int, key: LinkKey, streams: int, first: int = 0, number: int = 0) -> None:
        """Ask for the other end's part in the link ``key``, once in a while. Not when the way is the first one, which both
        know; ``number``: at least so much is that of a way that is not."""
        gid, purpose, member = key
        present = self.way(member).number
        if self.asker is None or present < number:
            return
        want = (key, epoch, present)
        now = time.monotonic()
        with self._lock:
            if now - self._called_at.get(want, 0.0) < REPEAT_SECONDS:
                return
            self._called_at = {k: at for k, at in self._called_at.items() if now - at < REPEAT_SECONDS}
            self._called_at[want] = now
        self.asker.call(member, epoch, gid, purpose, first, streams)

    # -- being asked ---------------------------------------------------------------------------------------------------

    def serve(self, want: Want, work: Callable[[], Any]) -> None:
        """Do ``work`` for a link on a thread of its own, unless that is being done or there is too much to do."""
        now = time.monotonic()
        with self._lock:
            self._serving = {k: at for k, at in self._serving.items() if now - at < COMING_SECONDS}
            busy = sum(at == AT_WORK for at in self._serving.values())
            if want in self._serving or busy >= MOST_CALLS:
                return
            self._serving[want] = AT_WORK

        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._serving[want] = time.monotonic()

        threading.Thread(target=run, name="collcomm-reach", daemon=True).start()

    def _other(self, way: Way) -> int:
        return sum(way.pair) - self._member

    def _numbers(self) -> dict[int, int]:
        return {member: way.number for member, way in self._ways.items()}
