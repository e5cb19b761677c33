"""How this peer makes a connection with another, in whatever view and by whatever way holds: directly, or by a relay.

    what goes wrong                                   what follows
    ------------------------------------------------  -------------------------------------------------------------
    the other end knows of a later view, or way       wait until this one has heard of it, too; dial again
    it does not answer, in a view that is over        dial again in the present one
    it does not answer, and there may be another way  Unreached: ask for it (`await_another_way`), and dial again
    it does not answer, and there is no other way     LinkBroken
    the way has changed meanwhile                     Rerouted: look again whose part the link is

Every wait has an end; see `reach`.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..types import COORDINATOR, Member, Way, WayKind
from .base import LinkBroken, LinkKey
from .dialling import Route, Source, connected, greet
from .door import GREETING_SECONDS, Line
from .frames import NONCE_BYTES, Greeting
from .handshake import Dialler, Outdated
from .presence import Presence
from .reach import ALTERNATIVE_SECONDS, REPEAT_SECONDS, SETTLE_SECONDS, Reach, Rerouted, Unreached
from .relay import READY
from .stream import SocketStream
from .tls import TlsLine

Check = Callable[[], None]


class Place(NamedTuple):
    """Which of a link's ``streams`` connections one is. ``joins``: the others are there; ``source``: where it comes from."""

    stream: int
    streams: int
    joins: bool = False
    source: Source | None = None


class Connector:
    """``presence``: this peer's; ``reach``: by which ways it comes to the others. Every ``check`` runs every few milliseconds of
    a wait, and ends it by raising."""

    def __init__(self, presence: Presence, reach: Reach):
        self._presence = presence
        self._reach = reach

    def connect(
        self, route: Route, key: LinkKey, member: Member, place: Place, check: Check
    ) -> tuple[SocketStream, tuple[int, int]]:
        """One connection, made and proved in whatever view and way is present, and their numbers. Ends, since each turn takes a
        later one. Raises LinkBroken, Unreached where there may be another way, Rerouted."""
        gid, purpose, _ = key
        while True:
            with self._presence.changed:
                here, epoch, keys, _ = self._presence.standing
                way = self._reach.way(member.id)
            secret = keys.get(member.id)
            if secret is None:
                check()
                raise LinkBroken(member.id, "closed", f"{member} is not in view {epoch}")
            if way.maker != here:
                raise Rerouted
            nonce = secrets.token_bytes(NONCE_BYTES)
            shape = (place.stream, place.streams, purpose)
            greeting = Greeting(epoch, gid, here, member.id, *shape, nonce, place.joins, way.number)
            try:
                line = self._dial(route, greeting, secret, member, way, place.source, check)
            except Outdated:
                self._await_news(epoch, way.number, member, check)
            except LinkBroken as broken:
                check()
                if self._presence.standing.epoch == epoch:
                    if isinstance(broken, Unreached) or not self._has_alternative(route):
                        raise
                    raise Unreached(member.id, member.id, way.number, broken.evidence, broken.text) from None
            else:
                stream = route.stream(line, member.id)
                stream.serial = greeting.serial
                return stream, (epoch, way.number)

    def meet(
        self, route: Route, key: LinkKey, member: Member, way: Way, place: Place, check: Check
    ) -> socket.socket | None:
        """Come to the relay for a connection that ``member`` wants. On what is returned it will greet; None when nothing came of
        it, and it asks again. Raises as `connect`."""
        gid, purpose, _ = key
        here, epoch = self._presence.standing.member, self._presence.standing.epoch
        shape = (place.stream, place.streams, purpose)
        greeting = Greeting(epoch, gid, here, member.id, *shape, bytes(NONCE_BYTES), way=way.number)
        try:
            return self._dial_relay(route, greeting, member, way, self._still(way, member, check))
        except Outdated:
            return None
        except Unreached as failure:
            self._reach.report(epoch, failure)
            return None

    def await_another_way(self, failure: Unreached, member: Member, check: Check) -> None:
        """Ask for another way, and wait until there is one, or another view. Raises LinkBroken when nobody says anything."""
        epoch = self._presence.standing.epoch
        began, told = time.monotonic(), 0.0
        with self._presence.changed:
            while self._presence.standing.epoch == epoch and self._reach.way(member.id).number == failure.number:
                self._presence.check_open("dialling")
                now = time.monotonic()
                if now - began > SETTLE_SECONDS:
                    raise LinkBroken(member.id, failure.evidence, failure.text)
                if now - told > REPEAT_SECONDS:
                    told = now
                    self._reach.report(epoch, failure)
                self._presence.wait(check)

    def _dial(
        self,
        route: Route,
        greeting: Greeting,
        secret: bytes,
        member: Member,
        way: Way,
        source: Source | None,
        check: Check,
    ) -> Line:
        """Raises as `greet`, Unreached, Rerouted."""
        check_way = self._still(way, member, check)
        if way.kind is WayKind.RELAY:
            check_way = self._calling(check_way, greeting, member)
            sock = self._dial_relay(route, greeting, member, way, check_way)
            connect = partial(route.greeted, sock, check_way)
        elif self._has_alternative(route):
            if member.outward:
                raise Unreached(member.id, member.id, way.number, "closed", f"{member} cannot be dialled")
            connect = partial(connected, route, member, check, source, ALTERNATIVE_SECONDS)
        else:
            connect = partial(connected, route, member, check, source)
        return greet(connect, member, Dialler(greeting, secret), check_way)

    def _dial_relay(self, route: Route, greeting: Greeting, member: Member, way: Way, check: Check) -> socket.socket:
        """A line to the relay between this peer and ``member``, on which nothing was said to that yet. Raises as `greet`."""
        relay, epoch, secret = self._reach.relay(way, greeting.epoch, self._presence.standing.keys)
        nonce = secrets.token_bytes(NONCE_BYTES)
        outer = greeting._replace(epoch=epoch, called=relay.id, onward=member.id, nonce=nonce)
        with_tls = relay.id != COORDINATOR  # which has no certificate of the peers
        make = partial(connected, route) if with_tls else route.dial
        connect = partial(make, relay, check, patience=ALTERNATIVE_SECONDS)
        try:
            line = greet(connect, relay, Dialler(outer, secret), check)
        except LinkBroken as broken:
            raise Unreached(member.id, relay.id, way.number, broken.evidence, broken.text) from None
        sock = line.sock if isinstance(line, TlsLine) else line
        try:
            sock.sendall(READY)  # past TLS: the ends speak it with each other
        except OSError as error:
            sock.close()
            raise Unreached(member.id, relay.id, way.number, "closed", f"the relay {relay} hung up: {error}") from None
        return sock

    def _has_alternative(self, route: Route) -> bool:
        return self._reach.asker is not None and route.name == "tcp"

    def _still(self, way: Way, member: Member, check: Check) -> Check:
        """``check``, and that ``member`` is still to be had that way."""

        def check_both() -> None:
            check()
            self._presence.check_open("dialling")
            if self._reach.way(member.id).number != way.number:
                raise Rerouted

        return check_both

    def _calling(self, check: Check, greeting: Greeting, member: Member) -> Check:
        """``check``, and now and then the other end is asked to come to the relay."""
        key = (greeting.gid, greeting.purpose, member.id)

        def check_and_call() -> None:
            check()
            self._reach.call(greeting.epoch, key, greeting.streams)

        check_and_call()
        return check_and_call

    def _await_news(self, epoch: int, number: int, member: Member, check: Check) -> None:
        """Of a later view, or another way, of which the other end has heard already."""
        deadline = time.monotonic() + GREETING_SECONDS
        with self._presence.changed:
            while self._presence.standing.epoch <= epoch and self._reach.way(member.id).number == number:
                self._presence.check_open("dialling")
                if time.monotonic() > deadline:
                    raise LinkBroken(member.id, "closed", f"{member} is in a later view than this peer, {epoch}")
                self._presence.wait(check)
