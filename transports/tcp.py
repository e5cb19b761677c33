"""TCP: one listening port per peer, links dialled when a plan needs them, several streams per link.

Of two peers the later member (higher id) dials and the earlier one accepts, so that both ends agree on who acts. Each proves
to the other that it is a member of the present view (`handshake`); a stranger, a peer of another run, or rubbish is turned away
at the `door` and disturbs nobody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..types import Member
from .base import DropsLinks, LinkBroken, LinkKey, TransportClosed
from .door import GREETING_SECONDS, Door, Line, Standing
from .frames import NONCE_BYTES, Greeting
from .handshake import Dialler, Outdated, Refused
from .poller import SocketPoller
from .stream import WAIT_SECONDS, TcpStream
from .tls import Tls, TlsLine, TlsStream

CONNECT_SECONDS = 5.0  # a host that has not answered a connection or greeting by then is out of reach
ANSWER_SECONDS = GREETING_SECONDS + 1.0  # it may wait for its view, and is told so long that we are there
BACKLOG = 1024
MAX_PARTIAL = 1024  # links of which some streams are there and some are not


class TcpLink:
    """The streams that join this peer with ``member`` for one communicator and purpose."""

    def __init__(self, key: LinkKey, streams: list[TcpStream]):
        self.key = key
        self.member = key[2]
        self.streams = streams

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


class TcpTransport(DropsLinks):
    """``host``: the address to listen on; "" for all of this machine's. ``streams``: connections per link, 1 to 64.
    ``tls``: the certificates with which all connections are encrypted, if given."""

    name = "tcp"
    offers = frozenset({"messages"})

    def __init__(self, host: str = "", port: int = 0, streams: int = 1, tls: Tls | None = None):
        if not 1 <= streams <= 64:
            raise ValueError(f"streams per link must be from 1 to 64, not {streams}")
        self._streams = streams
        self._tls = tls
        listener = _listen(host, port)
        self.port: int = listener.getsockname()[1]
        self._standing = Standing()
        self._links: dict[LinkKey, TcpLink] = {}
        self._partial: dict[LinkKey, dict[int, TcpStream]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._gone_sent = 0
        self._gone_received = 0
        self._door = Door(listener, lambda: self._standing, self._welcome, tls)

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
            self._door.look_again()

    def link(self, gid: int, purpose: int, member: Member, check: Callable[[], None]) -> TcpLink:
        """The link to ``member`` for communicator ``gid``; dialled or awaited now if there is none.

        ``check`` runs every few milliseconds and ends the wait by raising. Raises LinkBroken when nobody
        listens at the member's address, TransportClosed when this transport is closed meanwhile.
        """
        key = (gid, purpose, member.id)
        with self._changed:
            found = self._links.get(key)
            if found is not None:
                return found
        if self._standing.member > member.id:
            return self._dial(key, member, check)
        with self._changed:
            while key not in self._links:
                if self._closed:
                    raise TransportClosed("the communicator was closed while waiting for a connection")
                self._changed.wait(WAIT_SECONDS)
                check()
            return self._links[key]

    def poller(self) -> SocketPoller:
        return SocketPoller()

    def _drop(self, unwanted: Callable[[LinkKey], bool]) -> None:
        with self._changed:
            for key in [key for key in self._links if unwanted(key)]:
                self._retire(self._links.pop(key))
            for key in [key for key in self._partial if unwanted(key)]:
                for stream in self._partial.pop(key).values():
                    stream.close()

    def _retire(self, link: TcpLink) -> None:
        self._gone_sent += sum(stream.bytes_sent for stream in link.streams)
        self._gone_received += sum(stream.bytes_received for stream in link.streams)
        link.close()

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far, headers included, over all links."""
        with self._changed:
            streams = [stream for link in self._links.values() for stream in link.streams]
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
        self._door.close()
        self._drop(lambda key: True)

    # -- dialling ------------------------------------------------------------------------------------------------

    def _dial(self, key: LinkKey, member: Member, check: Callable[[], None]) -> TcpLink:
        gid, purpose, _ = key
        streams: list[TcpStream] = []
        try:
            for index in range(self._streams):
                streams.append(_stream(self._dial_one(gid, purpose, member, index, check), member.id))
        except BaseException:
            for stream in streams:
                stream.close()
            raise
        link = TcpLink(key, streams)
        with self._changed:
            if self._closed:
                link.close()
                raise TransportClosed("the communicator was closed while dialling")
            return self._links.setdefault(key, link)

    def _dial_one(self, gid: int, purpose: int, member: Member, index: int, check: Callable[[], None]) -> Line:
        """One connection, made and proved in whatever view is present. Ends, since each turn takes a later view."""
        while True:
            member_here, epoch, keys = self._standing
            key = keys.get(member.id)
            if key is None:
                check()
                raise LinkBroken(member.id, "closed", f"{member} is not in view {epoch}")
            nonce = secrets.token_bytes(NONCE_BYTES)
            greeting = Greeting(epoch, gid, member_here, member.id, index, self._streams, purpose, nonce)
            try:
                return _greet(member, Dialler(greeting, key), self._tls, check)
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

    def _welcome(self, greeting: Greeting, line: Line) -> None:
        """A connection that has proved to be ``greeting.caller``'s."""
        stream = _stream(line, greeting.caller)
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
            self._links[key] = TcpLink(key, [parts[index] for index in sorted(parts)])
            self._changed.notify_all()


def _close_all(parts: dict[int, TcpStream]) -> None:
    for stream in parts.values():
        stream.close()
    parts.clear()


def _listen(host: str, port: int) -> socket.socket:
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be compiled in and switched off
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)


def _stream(line: Line, member: int) -> TcpStream:
    return TlsStream(line, member) if isinstance(line, TlsLine) else TcpStream(line, member)


def _greet(member: Member, dialler: Dialler, tls: Tls | None, check: Callable[[], None]) -> Line:
    """Connect to ``member``, say who we are, and prove it to each other. Raises LinkBroken, Outdated."""
    family = socket.AF_INET6 if ":" in member.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _await_ready(sock, sock.connect_ex((member.host, member.port)), check)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line: Line = sock
        if tls is not None:
            line = tls.dialled(sock)
            while not line.handshake():
                _poll(sock, select.POLLIN, check, ANSWER_SECONDS)
        line.sendall(dialler.opening)
        while not dialler.done:
            try:
                part = line.recv(dialler.wants)
            except BlockingIOError:
                _poll(sock, select.POLLIN, check, ANSWER_SECONDS)
                continue
            if not part:
                raise LinkBroken(member.id, "closed", f"{member} hung up on our greeting")
            line.sendall(dialler.receive(part))
    except Refused as refused:
        sock.close()
        raise LinkBroken(member.id, "closed", f"cannot connect to {member}: {refused}") from None
    except OSError as error:
        sock.close()
        evidence = "closed" if isinstance(error, ConnectionError | ssl.SSLError) else "unacked"
        raise LinkBroken(member.id, evidence, f"cannot connect to {member}: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return line


def _await_ready(sock: socket.socket, code: int, check: Callable[[], None]) -> None:
    if code == errno.EINPROGRESS:
        _poll(sock, select.POLLOUT, check)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise (
            OSError(code, os.strerror(code))
            if code not in _REFUSED
            else ConnectionRefusedError(code, os.strerror(code))
        )


_REFUSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


def _poll(sock: socket.socket, events: int, check: Callable[[], None], patience: float = CONNECT_SECONDS) -> None:
    poller = select.poll()
    poller.register(sock, events)
    deadline = time.monotonic() + patience
    while not poller.poll(WAIT_SECONDS * 1e3):
        check()
        if time.monotonic() > deadline:
            raise OSError(errno.ETIMEDOUT, f"no answer within {patience:.0f} s")
