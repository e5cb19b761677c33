"""A transport over connections: each peer listens, links are made when a plan needs them, several streams per link.

How a connection comes about is a *route* (`tcp`, `shm`); this module keeps the links, whichever route they came by. Of two
peers the later member (higher id) dials and the earlier one accepts, so that both ends agree on who acts; where that does not
work, they find another way (`reach`, `relay`). Each proves
to the other that it is a member of the present view (`handshake`); a stranger, a peer of another run, or rubbish is turned away
at the `door` and disturbs nobody.
"""

from __future__ import annotations

import contextlib
import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ..errors import UnsupportedTransport
from ..types import COORDINATOR, Booth, Member, Way, WayKind
from .base import COLLECTIVES, MESSAGES, PROBES, DropsLinks, LinkBroken, LinkKey, TransportClosed, Window
from .dialling import CONNECT_SECONDS, Route, Source, await_socket, greet, source_of
from .door import GREETING_SECONDS, Door, Line, Standing
from .frames import MAX_STREAMS, NONCE_BYTES, Greeting
from .handshake import Dialler, Outdated
from .link import SocketLink
from .poller import SocketPoller
from .reach import ALTERNATIVE_SECONDS, REPEAT_SECONDS, SETTLE_SECONDS, Asker, Reach, Rerouted, Unreached
from .relay import READY, Relay
from .stream import WAIT_SECONDS, SocketStream
from .tls import TlsLine
from .window import BadWindow, OwnWindow, receive_window

PROBE_SECONDS = 0.3
MAX_PARTIAL = 1024  # links of which some streams are there and some are not
MAX_LINGERING = 64  # connections with peers that have left


class SocketTransport(DropsLinks):
    """``offers``: the names of the routes to be used, in order of preference; all, in their order, if None."""

    def __init__(self, routes: Sequence[Route], offers: Sequence[str] | None = None):
        self.routes = tuple(routes)
        names = [route.name for route in routes]
        self.offers = tuple(names if offers is None else (name for name in offers if name in names))
        self.striped = any(route.streams > 1 for route in routes)
        self._standing = Standing()
        self._links: dict[LinkKey, SocketLink] = {}
        self._dialling: set[LinkKey] = set()
        self._partial: dict[LinkKey, dict[int, SocketStream]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._lingering: list[LinkKey] = []
        self.reach = Reach()
        self.relay = Relay()
        self._gone_sent = 0
        self._gone_received = 0
        self._wanted: dict[int, int] = {}  # streams, by member
        self.on_probe: Callable[[SocketLink], None] | None = (
            None  # hears of links that others make to probe; may not wait
        )
        self._doors = [
            Door(route.listener, lambda _: self._standing, partial(self._welcome, route), route.tls)
            for route in self.routes
        ]

    def introduce(self, member: int) -> None:
        """Tell who this peer is; greetings that came before wait for that."""
        self.reach.introduce(member)
        self._stand(member=member)

    def admit(
        self,
        epoch: int,
        keys: Mapping[int, bytes],
        members: Sequence[Member] = (),
        ways: Sequence[Way] = (),
        booth: Booth | None = None,
    ) -> None:
        """A new view: connections are made with members that have a key in ``keys``, and prove that they know it. ``ways``: to
        those that are not linked with this peer in the first way; ``booth``: the coordinator's relay.

        Connections that are there already stay, see `keep_only`.
        """
        with self._changed:
            self._stand(epoch=epoch, keys=dict(keys), ways=self.reach.adopt(members, ways, booth))

    def reroute(self, way: Way) -> None:
        """This peer and another come by connections in that way from now on; those that are there stay."""
        with self._changed:
            self._stand(ways=self.reach.reroute(way))

    def ask(self, asker: Asker) -> None:
        """Who tells the coordinator that a member cannot be had in the usual way. Without, that breaks the link."""
        self.reach.asker = asker

    def route_of(self, member: int) -> str | tuple[str, int]:
        """How bytes get to ``member``: "direct", "reversed" (this one or that one dials), or ("relay", the member in
        between)."""
        return self.reach.route_of(member)

    def _stand(self, **changes: Any) -> None:
        with self._changed:
            if self._closed:
                return
            self._standing = self._standing._replace(**changes)
            self._changed.notify_all()
            for door in self._doors:
                door.look_again()

    def link(
        self, gid: int, purpose: int, member: Member, check: Callable[[], None], streams: int | None = None
    ) -> SocketLink:
        """The link to ``member`` for communicator ``gid``; dialled or awaited now if there is none.

        ``streams``: as many as that if it is dialled, else as many as its route has. ``check`` runs every few milliseconds
        and ends the wait by raising. Raises LinkBroken when nobody listens at the member's address, TransportClosed when
        this transport is closed meanwhile, UnsupportedTransport when none of the routes goes there.
        """
        key = (gid, purpose, member.id)
        while True:
            with self._changed:
                while key not in self._links:
                    if self._closed:
                        raise TransportClosed("the communicator was closed while waiting for a connection")
                    if key not in self._dialling:
                        if self.makes_link(member.id):
                            self._dialling.add(key)  # others who want this link wait for it
                            break
                        self.reach.call(self._standing.epoch, key, self.routes[-1].streams, number=1)
                    self._changed.wait(WAIT_SECONDS)
                    check()
                else:
                    return self._links[key]
            try:
                return self._dial(key, member, check, streams)
            except Unreached as failure:
                self._await_another_way(failure, member, check)
            except Rerouted:
                check()
                with self._changed:
                    self._changed.wait(WAIT_SECONDS)
            finally:
                with self._changed:
                    self._dialling.discard(key)
                    self._changed.notify_all()

    def makes_link(self, member: int) -> bool:
        return self.reach.makes(member)

    def links_at_once(self, gid: int, purpose: int, member: int) -> bool:
        return self.makes_link(member) or (gid, purpose, member) in self._links

    def is_gone(self, member: Member) -> bool:
        if member.outward or self.reach.way(member.id).number:
            return False  # nobody is expected to answer there
        try:
            socket.create_connection((member.host, member.port), PROBE_SECONDS).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # who knows
        return False

    def make_window(self, nbytes: int) -> OwnWindow:
        return OwnWindow(nbytes)

    def exchange(self, link: SocketLink, own: Window, check: Callable[[], None]) -> Window:
        """Send ``own``, and receive the other end's. Raises LinkBroken."""
        assert isinstance(own, OwnWindow)
        sock = link.streams[0].socket
        try:
            own.send(sock)
            while True:
                try:
                    return receive_window(sock)
                except BlockingIOError:
                    await_socket(sock, select.POLLIN, check)
        except BadWindow as error:
            raise LinkBroken(link.member, "closed", f"no window came: {error}") from None
        except OSError as error:
            raise LinkBroken(link.member, "closed", f"no window came: {error.strerror}") from None

    def keep_only(self, members: Iterable[int]) -> None:
        """As in the contract; but what those who have left had sent before may be read yet, up to `MAX_LINGERING` links
        back."""
        keep = set(members)
        with self._changed:
            left = [key for key in self._links if key[1] == MESSAGES and key[2] not in keep]
            self._lingering = (self._lingering + [key for key in left if key not in self._lingering])[-MAX_LINGERING:]
        self._drop(lambda key: key[2] not in keep and key not in self._lingering)
        self.relay.keep_only(keep)

    def poller(self) -> SocketPoller:
        return SocketPoller()

    def _drop(self, unwanted: Callable[[LinkKey], bool]) -> None:
        with self._changed:
            for key in [key for key in self._links if unwanted(key)]:
                self._retire(self._links.pop(key))
            for key in [key for key in self._partial if unwanted(key)]:
                for stream in self._partial.pop(key).values():
                    stream.close()

    def _retire(self, link: SocketLink) -> None:
        if link.key[1] != PROBES:
            sent, received = link.traffic()
            self._gone_sent += sent
            self._gone_received += received
        link.close()

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far, headers included, over all links but those that probe."""
        with self._changed:
            moved = [link.traffic() for key, link in self._links.items() if key[1] != PROBES]
            return (
                self._gone_sent + sum(sent for sent, _ in moved),
                self._gone_received + sum(received for _, received in moved),
            )

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        for door in self._doors:
            door.close()
        self.relay.close()
        self._drop(lambda key: True)

    # -- dialling ------------------------------------------------------------------------------------------------

    def _route(self, member: Member) -> Route:
        routes = {route.name: route for route in self.routes}
        for name in self.offers:
            if routes[name].reaches(member):
                return routes[name]
        raise UnsupportedTransport(
            f"{member} cannot be reached: this peer uses {', '.join(self.offers)} only, that one offers "
            f"{member.offers or 'nothing'}; join both with transports=None"
        )

    def _dial(self, key: LinkKey, member: Member, check: Callable[[], None], count: int | None = None) -> SocketLink:
        """Raises LinkBroken, Unreached where there may be another way, Rerouted."""
        route = self._route(member)
        count = self._streams(route, member) if count is None else count
        streams: list[SocketStream] = []
        try:
            for index in range(count):
                place = index, count, False, source_of(route.sources, index)
                stream, age = self._dial_one(route, key, member, place, check)
                streams.append(stream)
        except BaseException:
            for stream in streams:
                stream.close()
            raise
        link = SocketLink(key, streams, age)
        with self._changed:
            if self._closed:
                link.close()
                raise TransportClosed("the communicator was closed while dialling")
            other = self._links.get(key)
            if other is not None and other.age > age:
                link.close()
                return other
            if other is not None:
                self._retire(other)
            self._links[key] = link
            return link

    def want_streams(self, member: int, streams: int) -> None:
        """Links with ``member`` for collectives have as many streams from now on: new ones at once, others when `keep_wide`
        comes by. Over a route that has more, they keep these."""
        self._wanted[member] = max(1, min(MAX_STREAMS, streams))

    def _streams(self, route: Route, member: Member) -> int:
        return max(route.streams, self._wanted.get(member.id, 1)) if route.name == "tcp" else route.streams

    def keep_wide(self, members: Iterable[Member], check: Callable[[], None]) -> None:
        """Add to the links for collectives that this peer has made what they lack in streams, also because some died. For one
        thread; it may take seconds. What cannot be dialled now is tried again next time."""
        by_id = {member.id: member for member in members}
        for link in self.open_links(COLLECTIVES):
            member = by_id.get(link.member)
            if member is None or not self.makes_link(member.id):
                continue
            with contextlib.suppress(LinkBroken, Rerouted, ValueError):
                self.widen(*link.key[:2], member, self._streams(self._route(member), member), check=check)

    def widen(
        self,
        gid: int,
        purpose: int,
        member: Member,
        streams: int,
        sources: Sequence[Source] = (),
        check: Callable[[], None] = lambda: None,
    ) -> int:
        """Add connections to the link with ``member``, which is there and was made by this peer, until ``streams`` of them
        live, and return how many were added; in place of dead ones first. Operations that run take to them in their midst.
        ``sources``: local address ("": any) and port (0: any) of each, in turn; by its source port a path is chosen where
        there are several of equal cost, by its address a card; if none are given, those of the route.

        For any thread, one at a time per link. Raises LinkBroken when there is no such link, or a connection cannot be made
        (those before it stay), ValueError, TransportClosed.
        """
        key = (gid, purpose, member.id)
        if not 1 <= streams <= MAX_STREAMS:
            raise ValueError(f"streams per link must be from 1 to {MAX_STREAMS}, not {streams}")
        if not self.makes_link(member.id):
            raise ValueError(f"the link with {member} is the other end's to widen: the later member dials")
        link = self._links.get(key)
        if link is None:
            raise LinkBroken(member.id, "closed", f"there is no link with {member} yet that could be widened")
        route, added = self._route(member), 0
        while link.living < streams and self._links.get(key) is link:
            index = link.vacancy()
            if index >= MAX_STREAMS:
                break
            source = source_of(sources, added) if sources else source_of(route.sources, index)
            place = index, max(index + 1, len(link.streams)), True, source
            self.striped = True
            stream, _ = self._dial_one(route, key, member, place, check)
            added += link.put(index, stream)
        return added

    def _dial_one(
        self,
        route: Route,
        key: LinkKey,
        member: Member,
        place: tuple[int, int, bool, Source | None],
        check: Callable[[], None],
    ) -> tuple[SocketStream, tuple[int, int]]:
        """One connection, made and proved in whatever view and way is present, and their numbers. Ends, since each turn takes a
        later one. ``place``: its number, of how many, whether the others are there, and where it comes from."""
        gid, purpose, _ = key
        index, streams, joins, source = place
        while True:
            with self._changed:
                member_here, epoch, keys, _ = self._standing
                way = self.reach.way(member.id)
            secret = keys.get(member.id)
            if secret is None:
                check()
                raise LinkBroken(member.id, "closed", f"{member} is not in view {epoch}")
            if way.maker != member_here:
                raise Rerouted
            nonce = secrets.token_bytes(NONCE_BYTES)
            shape = (index, streams, purpose)
            greeting = Greeting(epoch, gid, member_here, member.id, *shape, nonce, joins, way.number)
            try:
                check_way = self._still(way, member, check)
                if way.kind is WayKind.RELAY:
                    check_way = self._calling(check_way, epoch, key, streams)
                    sock = self._dial_relay(route, greeting, member, way, check_way)
                    connect = partial(route.greeted, sock, check_way)
                elif self._has_alternative(route):
                    if member.outward:
                        raise Unreached(member.id, member.id, way.number, "closed", f"{member} cannot be dialled")
                    connect = partial(route.connect, member, check, source, ALTERNATIVE_SECONDS)
                else:
                    connect = partial(route.connect, member, check, source)
                stream = route.stream(greet(connect, member, Dialler(greeting, secret), check_way), member.id)
                stream.serial = greeting.serial
                return stream, (epoch, way.number)
            except Outdated:
                self._await_news(epoch, way.number, member, check)
            except LinkBroken as broken:
                check()
                if self._standing.epoch == epoch:
                    if isinstance(broken, Unreached) or not self._has_alternative(route):
                        raise
                    raise Unreached(member.id, member.id, way.number, broken.evidence, broken.text) from None

    def _dial_relay(
        self, route: Route, greeting: Greeting, member: Member, way: Way, check: Callable[[], None]
    ) -> socket.socket:
        """A line to the relay between this peer and ``member``, on which nothing was said to that yet. Raises as `greet`."""
        relay, epoch, secret = self.reach.relay(way, greeting.epoch, self._standing.keys)
        nonce = secrets.token_bytes(NONCE_BYTES)
        outer = greeting._replace(epoch=epoch, called=relay.id, onward=member.id, nonce=nonce)
        with_tls = relay.id != COORDINATOR  # which has no certificate of the peers
        connect = partial(route.connect if with_tls else route.dial, relay, check, patience=ALTERNATIVE_SECONDS)
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
        return self.reach.asker is not None and route.name == "tcp"

    def _still(self, way: Way, member: Member, check: Callable[[], None]) -> Callable[[], None]:
        """``check``, and that ``member`` is still to be had that way."""

        def check_both() -> None:
            check()
            if self._closed:
                raise TransportClosed("the communicator was closed while dialling")
            if self.reach.way(member.id).number != way.number:
                raise Rerouted

        return check_both

    def _calling(self, check: Callable[[], None], epoch: int, key: LinkKey, streams: int) -> Callable[[], None]:
        """``check``, and now and then the other end is asked to come to the relay."""

        def check_and_call() -> None:
            check()
            self.reach.call(epoch, key, streams)

        check_and_call()
        return check_and_call

    def _await_another_way(self, failure: Unreached, member: Member, check: Callable[[], None]) -> None:
        """Ask for another way, and wait until there is one, or another view. Raises LinkBroken when nobody says anything."""
        epoch = self._standing.epoch
        began, told = time.monotonic(), 0.0
        with self._changed:
            while self._standing.epoch == epoch and self.reach.way(member.id).number == failure.number:
                if self._closed:
                    raise TransportClosed("the communicator was closed while dialling")
                now = time.monotonic()
                if now - began > SETTLE_SECONDS:
                    raise LinkBroken(member.id, failure.evidence, failure.text)
                if now - told > REPEAT_SECONDS:
                    told = now
                    self.reach.report(epoch, failure)
                self._changed.wait(WAIT_SECONDS)
                check()

    def _await_news(self, epoch: int, number: int, member: Member, check: Callable[[], None]) -> None:
        """Of a later view, or another way, of which the other end has heard already."""
        deadline = time.monotonic() + GREETING_SECONDS
        with self._changed:
            while self._standing.epoch <= epoch and self.reach.way(member.id).number == number:
                if self._closed:
                    raise TransportClosed("the communicator was closed while dialling")
                if time.monotonic() > deadline:
                    raise LinkBroken(member.id, "closed", f"{member} is in a later view than this peer, {epoch}")
                self._changed.wait(WAIT_SECONDS)
                check()

    # -- being called ----------------------------------------------------------------------------------------------

    def called(self, member: Member, gid: int, purpose: int, stream: int, streams: int) -> None:
        """``member`` waits for a link in which this peer has a part; that is done on another thread."""
        key = (gid, purpose, member.id)
        self.reach.serve(
            (key, self._standing.epoch, self.reach.way(member.id).number),
            partial(self._answer, key, member, stream, streams),
        )

    def _answer(self, key: LinkKey, member: Member, stream: int, streams: int) -> None:
        """Make the link, or come to the relay for it. What fails is found by who waits, and asked for again."""
        deadline = time.monotonic() + CONNECT_SECONDS + SETTLE_SECONDS
        epoch = self._standing.epoch

        def check() -> None:
            if time.monotonic() > deadline or self._standing.epoch != epoch:
                raise Rerouted

        try:
            way = self.reach.way(member.id)
            if way.maker == self._standing.member:
                self._drop_if_closed(key)
                self.link(key[0], key[1], member, check)
            elif way.kind is WayKind.RELAY:
                for index in range(stream, stream + streams):
                    self._come(key, member, way, index, streams, check)
        except (Rerouted, LinkBroken, TransportClosed, UnsupportedTransport):
            pass

    def _come(
        self, key: LinkKey, member: Member, way: Way, index: int, streams: int, check: Callable[[], None]
    ) -> None:
        route = self._route(member)
        door = self._doors[self.routes.index(route)]
        here, epoch = self._standing.member, self._standing.epoch
        shape = (index, max(streams, index + 1), key[1])
        greeting = Greeting(epoch, key[0], here, member.id, *shape, bytes(NONCE_BYTES), way=way.number)
        try:
            sock = self._dial_relay(route, greeting, member, way, self._still(way, member, check))
        except Outdated:
            return
        except Unreached as failure:
            self.reach.report(epoch, failure)
            return
        with self._changed:
            if self._closed:
                sock.close()
            else:
                door.bring(sock)

    def _drop_if_closed(self, key: LinkKey) -> None:
        """Whoever calls for a link has none: what is here has been given up by it, once that is seen."""
        link = self._links.get(key)
        try:
            for stream in link.streams if link is not None else ():
                stream.check_open()
        except LinkBroken:
            with self._changed:
                if self._links.get(key) is link and link is not None:
                    self._retire(self._links.pop(key))

    # -- accepting -----------------------------------------------------------------------------------------------

    def _welcome(self, route: Route, greeting: Greeting, line: Line) -> None:
        """A connection that has proved to be ``greeting.caller``'s."""
        if greeting.onward:
            self.relay.take(greeting, line.sock if isinstance(line, TlsLine) else line)
            return
        stream = route.stream(line, greeting.caller)
        stream.serial = greeting.serial
        key = (greeting.gid, greeting.purpose, greeting.caller)
        with self._changed:
            if greeting.joins:
                link = self._links.get(key)
                if link is None or self._closed:
                    stream.close()  # it has broken meanwhile, as the caller will hear
                else:
                    self.striped = True
                    link.put(greeting.stream, stream)
                return
            parts = self._partial.pop(key, {})
            if any(index >= greeting.streams for index in parts) or self._closed:
                _close_all(parts)  # a link of another shape was begun and given up
            elif greeting.stream in parts:
                parts.pop(greeting.stream).close()
            parts[greeting.stream] = stream
            if len(parts) < greeting.streams:
                self._partial[key] = parts
                while len(self._partial) > MAX_PARTIAL:
                    _close_all(self._partial.pop(next(iter(self._partial))))
                return
            old = self._links.get(key)
            link = SocketLink(key, [parts[index] for index in sorted(parts)], (greeting.epoch, greeting.way))
            if old is not None and old.age > link.age:
                link.close()
                return
            if old is not None:
                self._retire(old)
            self._links[key] = link
            self._changed.notify_all()
        if greeting.purpose == PROBES:
            if self.on_probe is None:
                self.drop_link(*key, link.streams[0])
            else:
                self.on_probe(link)

    def open_links(self, purpose: int) -> list[SocketLink]:
        """Those there are at this moment."""
        with self._changed:
            return [link for key, link in self._links.items() if key[1] == purpose]


def _close_all(parts: dict[int, SocketStream]) -> None:
    for stream in parts.values():
        stream.close()
    parts.clear()
