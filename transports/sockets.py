"""A transport over connections: each peer listens, links are made when a plan needs them, several streams per link.

How a connection comes about is a *route* (`tcp`, `shm`); this module makes links of them, whichever route they came by, and
`openlinks` keeps those. Of two peers the later member (higher id) dials (`connector`) and the earlier one accepts, so that both
ends agree on who acts; where that does not work, they find another way (`reach`, `relay`). Each proves to the other that it is
a member of the present view (`handshake`); a stranger, a peer of another run, or rubbish is turned away at the `door` and
disturbs nobody.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ..errors import UnsupportedTransport
from ..types import Booth, Member, Way, WayKind
from .base import COLLECTIVES, MEASURING, DropsLinks, LinkBroken, LinkKey, TransportClosed, Window
from .connector import Connector, Place
from .dialling import CONNECT_SECONDS, Route, Source, await_socket, source_of
from .door import Door, Line
from .frames import MAX_STREAMS, Greeting
from .link import SocketLink
from .openlinks import OpenLinks
from .poller import SocketPoller
from .presence import Presence
from .reach import SETTLE_SECONDS, Asker, Reach, Rerouted, Unreached
from .relay import Relay
from .stream import SocketStream
from .tls import TlsLine
from .window import BadWindow, OwnWindow, receive_window

PROBE_SECONDS = 0.3


class SocketTransport(DropsLinks):
    """``offers``: the names of the routes to be used, in order of preference; all, in their order, if None."""

    def __init__(self, routes: Sequence[Route], offers: Sequence[str] | None = None):
        self.routes = tuple(routes)
        names = [route.name for route in routes]
        self.offers = tuple(names if offers is None else (name for name in offers if name in names))
        self.striped = any(route.streams > 1 for route in routes)
        self.on_probe: Callable[[SocketLink], None] | None = None  # hears of links made to probe; may not wait
        self.reach = Reach()
        self.relay = Relay()
        self._presence = Presence()
        self._connector = Connector(self._presence, self.reach)
        self._links: OpenLinks = OpenLinks(self._presence.changed)
        self._dialling: set[LinkKey] = set()
        self._wanted: dict[int, int] = {}  # streams, by member
        self._doors = [
            Door(route.listener, lambda _: self._presence.standing, partial(self._welcome, route), route.tls)
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
        with self._presence.changed:
            self._stand(epoch=epoch, keys=dict(keys), ways=self.reach.adopt(members, ways, booth))

    def reroute(self, way: Way) -> None:
        """This peer and another come by connections in that way from now on; those that are there stay."""
        with self._presence.changed:
            self._stand(ways=self.reach.reroute(way))

    def ask(self, asker: Asker) -> None:
        """Who tells the coordinator that a member cannot be had in the usual way. Without, that breaks the link."""
        self.reach.asker = asker

    def route_of(self, member: int) -> str | tuple[str, int]:
        """How bytes get to ``member``: "direct", "reversed" (this one or that one dials), or ("relay", the member in
        between)."""
        return self.reach.route_of(member)

    def _stand(self, **changes: Any) -> None:
        with self._presence.changed:
            if self._presence.become(**changes):
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
            with self._presence.changed:
                while key not in self._links:
                    self._presence.check_open("waiting for a connection")
                    if key not in self._dialling:
                        if self.makes_link(member.id):
                            self._dialling.add(key)  # others who want this link wait for it
                            break
                        self.reach.call(self._presence.standing.epoch, key, self.routes[-1].streams, number=1)
                    self._presence.wait(check)
                else:
                    return self._links[key]
            try:
                return self._dial(key, member, check, streams)
            except Unreached as failure:
                self._connector.await_another_way(failure, member, check)
            except Rerouted:
                self._presence.wait(check)
            finally:
                with self._presence.changed:
                    self._dialling.discard(key)
                    self._presence.changed.notify_all()

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
        """As in the contract; but what those who have left had sent before may be read yet."""
        keep = set(members)
        self._links.keep_only(keep)
        self.relay.keep_only(keep)

    def poller(self) -> SocketPoller:
        return SocketPoller()

    def _drop(self, unwanted: Callable[[LinkKey], bool]) -> None:
        self._links.drop(unwanted)

    def open_links(self, purpose: int) -> list[SocketLink]:
        """Those there are at this moment."""
        return self._links.for_purpose(purpose)

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far, headers included, over all links but those that probe."""
        return self._links.traffic()

    def close(self) -> None:
        if not self._presence.close():
            return
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
        count = self._streams(route, member, key[1]) if count is None else count
        streams: list[SocketStream] = []
        try:
            for index in range(count):
                place = Place(index, count, source=source_of(route.sources, index))
                stream, age = self._connector.connect(route, key, member, place, check)
                streams.append(stream)
        except BaseException:
            for stream in streams:
                stream.close()
            raise
        link = SocketLink(key, streams, age)
        self._note_streams(key[1], count)
        with self._presence.changed:
            if self._presence.closed:
                link.close()
            self._presence.check_open("dialling")
            return self._links.put(link)

    def _note_streams(self, purpose: int, streams: int) -> None:
        """Before the first operation can see the link."""
        if purpose == COLLECTIVES and streams > 1:
            self.striped = True

    def want_streams(self, member: int, streams: int) -> None:
        """Links with ``member`` for collectives have as many streams from now on: new ones at once, others when `keep_wide`
        comes by. Over a route that has more, they keep these."""
        self._wanted[member] = max(1, min(MAX_STREAMS, streams))

    def _streams(self, route: Route, member: Member, purpose: int) -> int:
        wanted = self._wanted.get(member.id, 1) if route.name == "tcp" and purpose == COLLECTIVES else 1
        return max(route.streams, wanted)

    def keep_wide(self, members: Iterable[Member], check: Callable[[], None]) -> None:
        """Add to the links for collectives that this peer has made what they lack in streams, also because some died. For one
        thread; it may take seconds. What cannot be dialled now is tried again next time."""
        by_id = {member.id: member for member in members}
        for link in self.open_links(COLLECTIVES):
            member = by_id.get(link.member)
            if member is None or not self.makes_link(member.id):
                continue
            with contextlib.suppress(LinkBroken, Rerouted, ValueError):
                self.widen(*link.key[:2], member, self._streams(self._route(member), member, COLLECTIVES), check=check)

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
            place = Place(index, max(index + 1, len(link.streams)), joins=True, source=source)
            self.striped = True
            stream, _ = self._connector.connect(route, key, member, place, check)
            added += link.put(index, stream)
        return added

    # -- being called ----------------------------------------------------------------------------------------------

    def called(self, member: Member, gid: int, purpose: int, stream: int, streams: int) -> None:
        """``member`` waits for a link in which this peer has a part; that is done on another thread."""
        key = (gid, purpose, member.id)
        self.reach.serve(
            (key, self._presence.standing.epoch, self.reach.way(member.id).number),
            partial(self._answer, key, member, stream, streams),
        )

    def _answer(self, key: LinkKey, member: Member, stream: int, streams: int) -> None:
        """Make the link, or come to the relay for it. What fails is found by who waits, and asked for again."""
        deadline = time.monotonic() + CONNECT_SECONDS + SETTLE_SECONDS
        epoch = self._presence.standing.epoch

        def check() -> None:
            if time.monotonic() > deadline or self._presence.standing.epoch != epoch:
                raise Rerouted

        try:
            way = self.reach.way(member.id)
            if way.maker == self._presence.standing.member:
                self._drop_if_closed(key)
                self.link(key[0], key[1], member, check)
            elif way.kind is WayKind.RELAY:
                for index in range(stream, stream + streams):
                    self._come(key, member, way, Place(index, max(streams, index + 1)), check)
        except (Rerouted, LinkBroken, TransportClosed, UnsupportedTransport):
            pass

    def _come(self, key: LinkKey, member: Member, way: Way, place: Place, check: Callable[[], None]) -> None:
        route = self._route(member)
        sock = self._connector.meet(route, key, member, way, place, check)
        if sock is None:
            return
        with self._presence.changed:
            if self._presence.closed:
                sock.close()
            else:
                self._doors[self.routes.index(route)].bring(sock)

    def _drop_if_closed(self, key: LinkKey) -> None:
        """Whoever calls for a link has none: what is here has been given up by it, once that is seen."""
        link = self._links.get(key)
        if link is None:
            return
        try:
            for stream in link.streams:
                stream.check_open()
        except LinkBroken:
            self._links.remove(link)

    # -- accepting -----------------------------------------------------------------------------------------------

    def _welcome(self, route: Route, greeting: Greeting, line: Line) -> None:
        """A connection that has proved to be ``greeting.caller``'s."""
        if greeting.onward:
            self.relay.take(greeting, line.sock if isinstance(line, TlsLine) else line)
            return
        stream = route.stream(line, greeting.caller)
        stream.serial = greeting.serial
        key = (greeting.gid, greeting.purpose, greeting.caller)
        with self._presence.changed:
            if greeting.joins:
                link = self._links.get(key)
                if link is None or self._presence.closed:
                    stream.close()  # it has broken meanwhile, as the caller will hear
                else:
                    self.striped = True
                    link.put(greeting.stream, stream)
                return
        self._note_streams(greeting.purpose, greeting.streams)
        link = self._links.assemble(key, greeting, stream)
        if link is None or greeting.purpose not in MEASURING:
            return
        if self.on_probe is None:
            self.drop_link(*key, link.streams[0])
        else:
            self.on_probe(link)
