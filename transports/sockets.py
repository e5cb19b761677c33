"""A transport over connections: each peer listens, links are made when a plan needs them, several streams per link.

How a connection comes about is a *route* (`tcp`, `shm`); this module keeps the links, whichever route they came by. Of two
peers the later member (higher id) dials and the earlier one accepts, so that both ends agree on who acts. Each proves
to the other that it is a member of the present view (`handshake`); a stranger, a peer of another run, or rubbish is turned away
at the `door` and disturbs nobody.
"""

from __future__ import annotations

import secrets
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ..errors import UnsupportedTransport
from ..types import Member
from .base import MESSAGES, DropsLinks, LinkBroken, LinkKey, TransportClosed, Window
from .dialling import Route, Source, await_socket, greet, source_of
from .door import GREETING_SECONDS, Door, Line, Standing
from .frames import MAX_STREAMS, NONCE_BYTES, Greeting
from .handshake import Dialler, Outdated
from .link import SocketLink
from .poller import SocketPoller
from .stream import WAIT_SECONDS, SocketStream
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
        self._gone_sent = 0
        self._gone_received = 0
        self._doors = [
            Door(route.listener, lambda: self._standing, partial(self._welcome, route), route.tls)
            for route in self.routes
        ]

    def introduce(self, member: int) -> None:
        """Tell who this peer is; greetings that came before wait for that."""
        self._stand(member=member)

    def admit(self, epoch: int, keys: Mapping[int, bytes]) -> None:
        """A new view: connections are made with members that have a key in ``keys``, and prove that they know it.

        Connections that are there already stay, see `keep_only`.
        """
        self._stand(epoch=epoch, keys=dict(keys))

    def _stand(self, **changes: Any) -> None:
        with self._changed:
            if self._closed:
                return
            self._standing = self._standing._replace(**changes)
            self._changed.notify_all()
            for door in self._doors:
                door.look_again()

    def link(self, gid: int, purpose: int, member: Member, check: Callable[[], None]) -> SocketLink:
        """The link to ``member`` for communicator ``gid``; dialled or awaited now if there is none.

        ``check`` runs every few milliseconds and ends the wait by raising. Raises LinkBroken when nobody
        listens at the member's address, TransportClosed when this transport is closed meanwhile, UnsupportedTransport when
        none of the routes goes there.
        """
        key = (gid, purpose, member.id)
        with self._changed:
            while key not in self._links:
                if self._closed:
                    raise TransportClosed("the communicator was closed while waiting for a connection")
                if self.makes_link(member.id) and key not in self._dialling:
                    self._dialling.add(key)  # others who want this link wait for it
                    break
                self._changed.wait(WAIT_SECONDS)
                check()
            else:
                return self._links[key]
        try:
            return self._dial(key, member, check)
        finally:
            with self._changed:
                self._dialling.discard(key)
                self._changed.notify_all()

    def makes_link(self, member: int) -> bool:
        return self._standing.member > member

    def links_at_once(self, gid: int, purpose: int, member: int) -> bool:
        return self.makes_link(member) or (gid, purpose, member) in self._links

    def is_gone(self, member: Member) -> bool:
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
        """As in the contract; but what those who have left had sent before may be read yet, up to `MAX_LINGERING` links back."""
        keep = set(members)
        with self._changed:
            left = [key for key in self._links if key[1] == MESSAGES and key[2] not in keep]
            self._lingering = (self._lingering + [key for key in left if key not in self._lingering])[-MAX_LINGERING:]
        self._drop(lambda key: key[2] not in keep and key not in self._lingering)

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
        sent, received = link.traffic()
        self._gone_sent += sent
        self._gone_received += received
        link.close()

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far, headers included, over all links."""
        with self._changed:
            moved = [link.traffic() for link in self._links.values()]
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

    def _dial(self, key: LinkKey, member: Member, check: Callable[[], None]) -> SocketLink:
        gid, purpose, _ = key
        route = self._route(member)
        streams: list[SocketStream] = []
        try:
            for index in range(route.streams):
                place = index, route.streams, False, source_of(route.sources, index)
                streams.append(self._dial_one(route, gid, purpose, member, place, check))
        except BaseException:
            for stream in streams:
                stream.close()
            raise
        link = SocketLink(key, streams)
        with self._changed:
            if self._closed:
                link.close()
                raise TransportClosed("the communicator was closed while dialling")
            return self._links.setdefault(key, link)

    def widen(
        self,
        gid: int,
        purpose: int,
        member: Member,
        streams: int,
        sources: Sequence[Source] = (),
        check: Callable[[], None] = lambda: None,
    ) -> int:
        """Add connections to the link with ``member``, which is there and was made by this peer, until ``streams`` of them live,
        and return how many were added; in place of dead ones first. Operations that run take to them in their midst. ``sources``:
        local address ("": any) and port (0: any) of each, in turn; by its source port a path is chosen where there are several
        of equal cost, by its address a card; if none are given, those of the route.

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
            added += link.put(index, self._dial_one(route, gid, purpose, member, place, check))
        return added

    def _dial_one(
        self,
        route: Route,
        gid: int,
        purpose: int,
        member: Member,
        place: tuple[int, int, bool, Source | None],
        check: Callable[[], None],
    ) -> SocketStream:
        """One connection, made and proved in whatever view is present. Ends, since each turn takes a later view. ``place``: its
        number, of how many, whether the others are there, and where it comes from."""
        index, streams, joins, source = place
        while True:
            member_here, epoch, keys = self._standing
            key = keys.get(member.id)
            if key is None:
                check()
                raise LinkBroken(member.id, "closed", f"{member} is not in view {epoch}")
            nonce = secrets.token_bytes(NONCE_BYTES)
            greeting = Greeting(epoch, gid, member_here, member.id, index, streams, purpose, nonce, joins)
            try:
                stream = route.stream(greet(route, member, Dialler(greeting, key), check, source), member.id)
                stream.serial = greeting.serial
                return stream
            except Outdated:
                self._await_later_view(epoch, member, check)
            except LinkBroken:
                check()
                if self._standing.epoch == epoch:
                    raise

    def _await_later_view(self, epoch: int, member: Member, check: Callable[[], None]) -> None:
        deadline = time.monotonic() + GREETING_SECONDS
        with self._changed:
            while self._standing.epoch <= epoch:
                if self._closed:
                    raise TransportClosed("the communicator was closed while dialling")
                if time.monotonic() > deadline:
                    raise LinkBroken(member.id, "closed", f"{member} is in a later view than this peer, {epoch}")
                self._changed.wait(WAIT_SECONDS)
                check()

    # -- accepting -----------------------------------------------------------------------------------------------

    def _welcome(self, route: Route, greeting: Greeting, line: Line) -> None:
        """A connection that has proved to be ``greeting.caller``'s."""
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
            old = self._links.pop(key, None)
            if old is not None:
                self._retire(old)
            self._links[key] = SocketLink(key, [parts[index] for index in sorted(parts)])
            self._changed.notify_all()


def _close_all(parts: dict[int, SocketStream]) -> None:
    for stream in parts.values():
        stream.close()
    parts.clear()
