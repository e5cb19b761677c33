"""A transport over connections: each peer listens, links are made when a plan needs them, several streams per link.

How a connection comes about is a *route* (`tcp`, `shm`); this module keeps the links, whichever route they came by. Of two
peers the later member (higher id) dials and the earlier one accepts, so that both ends agree on who acts. Each proves
to the other that it is a member of the present view (`handshake`); a stranger, a peer of another run, or rubbish is turned away
at the `door` and disturbs nobody.
"""

from __future__ import annotations

import errno
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from ..errors import UnsupportedTransport
from ..types import Member
from .base import MESSAGES, PROBES, DropsLinks, LinkBroken, LinkKey, TransportClosed, Window
from .door import GREETING_SECONDS, Door, Line, Standing
from .frames import NONCE_BYTES, Greeting
from .handshake import Dialler, Outdated, Refused
from .poller import SocketPoller
from .stream import WAIT_SECONDS, SocketStream
from .tls import Tls
from .window import BadWindow, OwnWindow, receive_window

CONNECT_SECONDS = 5.0  # a host that has not answered a connection or greeting by then is out of reach
ANSWER_SECONDS = GREETING_SECONDS + 1.0  # it may wait for its view, and is told so long that we are there
PROBE_SECONDS = 0.3
MAX_PARTIAL = 1024  # links of which some streams are there and some are not
MAX_STREAMS = 64
MAX_LINGERING = 64  # connections with peers that have left


class Route(Protocol):
    """One way in which connections are made. ``listener``: the transport closes it; ``streams``: connections per link; ``tls``:
    what the door speaks, if anything."""

    name: str
    listener: socket.socket
    streams: int
    tls: Tls | None

    def reaches(self, member: Member) -> bool: ...

    def connect(self, member: Member, check: Callable[[], None]) -> Line:
        """A connection to ``member``, not blocking. Raises OSError."""

    def stream(self, line: Line, member: int) -> SocketStream: ...


class SocketLink:
    """The streams that join this peer with ``member`` for one communicator and purpose."""

    def __init__(self, key: LinkKey, streams: list[SocketStream]):
        self.key = key
        self.member = key[2]
        self.streams = streams

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


class SocketTransport(DropsLinks):
    """``offers``: the names of the routes to be used, in order of preference; all, in their order, if None."""

    def __init__(self, routes: Sequence[Route], offers: Sequence[str] | None = None):
        self.routes = tuple(routes)
        names = [route.name for route in routes]
        self.offers = tuple(names if offers is None else (name for name in offers if name in names))
        self._standing = Standing()
        self._links: dict[LinkKey, SocketLink] = {}
        self._dialling: set[LinkKey] = set()
        self._partial: dict[LinkKey, dict[int, SocketStream]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._lingering: list[LinkKey] = []
        self._gone_sent = 0
        self._gone_received = 0
        self.on_probe: Callable[[SocketLink], None] | None = (
            None  # hears of links that others make to probe; may not wait
        )
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

    def link(
        self, gid: int, purpose: int, member: Member, check: Callable[[], None], streams: int | None = None
    ) -> SocketLink:
        """The link to ``member`` for communicator ``gid``; dialled or awaited now if there is none.

        ``streams``: as many as that if it is dialled, else as many as its route has. ``check`` runs every few milliseconds
        and ends the wait by raising. Raises LinkBroken when nobody listens at the member's address, TransportClosed when
        this transport is closed meanwhile, UnsupportedTransport when none of the routes goes there.
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
            return self._dial(key, member, check, streams)
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
        """As in the contract; but what those who have left had sent before may be read yet, up to `MAX_LINGERING` links
        back."""
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
        if link.key[1] != PROBES:
            self._gone_sent += sum(stream.bytes_sent for stream in link.streams)
            self._gone_received += sum(stream.bytes_received for stream in link.streams)
        link.close()

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far, headers included, over all links but those that probe."""
        with self._changed:
            links = [link for key, link in self._links.items() if key[1] != PROBES]
            streams = [stream for link in links for stream in link.streams]
            return (
                self._gone_sent + sum(stream.bytes_sent for stream in streams),
                self._gone_received + sum(stream.bytes_received for stream in streams),
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

    def _dial(self, key: LinkKey, member: Member, check: Callable[[], None], count: int | None = None) -> SocketLink:
        route = self._route(member)
        count = route.streams if count is None else count
        streams: list[SocketStream] = []
        try:
            for index in range(count):
                streams.append(route.stream(self._dial_one(route, key, member, index, count, check), member.id))
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

    def _dial_one(
        self, route: Route, link: LinkKey, member: Member, index: int, count: int, check: Callable[[], None]
    ) -> Line:
        """One connection, made and proved in whatever view is present. Ends, since each turn takes a later view."""
        gid, purpose, _ = link
        while True:
            member_here, epoch, keys = self._standing
            key = keys.get(member.id)
            if key is None:
                check()
                raise LinkBroken(member.id, "closed", f"{member} is not in view {epoch}")
            nonce = secrets.token_bytes(NONCE_BYTES)
            greeting = Greeting(epoch, gid, member_here, member.id, index, count, purpose, nonce)
            try:
                return _greet(route, member, Dialler(greeting, key), check)
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
        key = (greeting.gid, greeting.purpose, greeting.caller)
        with self._changed:
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
            link = self._links[key] = SocketLink(key, [parts[index] for index in sorted(parts)])
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


def _greet(route: Route, member: Member, dialler: Dialler, check: Callable[[], None]) -> Line:
    """Connect to ``member``, say who we are, and prove it to each other. Raises LinkBroken, Outdated."""
    line: Line | None = None
    try:
        line = route.connect(member, check)
        line.sendall(dialler.opening)
        while not dialler.done:
            try:
                part = line.recv(dialler.wants)
            except BlockingIOError:
                await_socket(line, select.POLLIN, check, ANSWER_SECONDS)
                continue
            if not part:
                raise LinkBroken(member.id, "closed", f"{member} hung up on our greeting")
            line.sendall(dialler.receive(part))
    except BaseException as error:
        if line is not None:
            line.close()
        if isinstance(error, Refused):
            raise LinkBroken(member.id, "closed", f"cannot connect to {member}: {error}") from None
        if isinstance(error, OSError):
            evidence = "closed" if isinstance(error, ConnectionError | ssl.SSLError) else "unacked"
            raise LinkBroken(member.id, evidence, f"cannot connect to {member}: {error.strerror}") from None
        raise
    return line


def await_socket(
    line: Line | socket.socket, events: int, check: Callable[[], None], patience: float = CONNECT_SECONDS
) -> None:
    """Wait until ``line`` is ready. Raises OSError (ETIMEDOUT) after ``patience`` seconds, and what ``check`` raises."""
    poller = select.poll()
    poller.register(line, events)
    deadline = time.monotonic() + patience
    while not poller.poll(WAIT_SECONDS * 1e3):
        check()
        if time.monotonic() > deadline:
            raise OSError(errno.ETIMEDOUT, f"no answer within {patience:.0f} s")
