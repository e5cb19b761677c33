"""TCP: one listening port per peer, links dialled when a plan needs them, several streams per link.

Of two peers the later member (higher id) dials and the earlier one accepts, so that both ends agree on who acts. A thread
accepts and checks greetings; a stranger, a peer of another run, or rubbish is turned away there and disturbs nobody.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..types import Member
from .base import LinkBroken, TransportClosed
from .frames import ACCEPTED, GREETING_BYTES, BadFrame, Greeting
from .poller import SocketPoller
from .stream import WAIT_SECONDS, TcpStream

CONNECT_SECONDS = 5.0  # a host that has not answered a connection or greeting by then is out of reach
GREETING_SECONDS = 5.0  # a connection that has not said who it is by then is dropped
MAX_STRANGERS = 128  # connections that have not said who they are
BACKLOG = 1024

_Key = tuple[int, int, int]  # gid, purpose, member


class TcpLink:
    """The streams that join this peer with ``member`` for one communicator and purpose."""

    def __init__(self, key: _Key, streams: list[TcpStream]):
        self.key = key
        self.member = key[2]
        self.streams = streams

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


@dataclass
class _Stranger:
    sock: socket.socket
    deadline: float
    data: bytearray = field(default_factory=bytearray)


class TcpTransport:
    """``host``: the address to listen on; "" for all of this machine's. ``streams``: connections per link, 1 to 64."""

    name = "tcp"
    offers = frozenset({"messages"})

    def __init__(self, host: str = "", port: int = 0, streams: int = 1):
        if not 1 <= streams <= 64:
            raise ValueError(f"streams per link must be from 1 to 64, not {streams}")
        self._streams = streams
        self._listener = _listen(host, port)
        self.port: int = self._listener.getsockname()[1]
        self._token = b""
        self._member = -1
        self._links: dict[_Key, TcpLink] = {}
        self._partial: dict[_Key, dict[int, TcpStream]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._gone_sent = 0
        self._gone_received = 0
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._accept_forever, name="collcomm-accept", daemon=True)
        self._thread.start()

    def introduce(self, token: bytes, member: int) -> None:
        """Tell who this peer is; greetings that came before wait for that."""
        with self._changed:
            self._token, self._member = token, member
        os.write(self._wake_write, b"x")

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
        if self._member > member.id:
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

    def keep_only(self, members: Iterable[int]) -> None:
        """Close the links to all others: they have left."""
        keep = set(members)
        self._drop(lambda key: key[2] not in keep)

    def drop_member(self, member: int) -> None:
        """Close all links with ``member``, which stays: they are to be made anew."""
        self._drop(lambda key: key[2] == member)

    def drop_group(self, gid: int) -> None:
        """Close all links of one communicator."""
        self._drop(lambda key: key[0] == gid)

    def drop_link(self, gid: int, purpose: int, member: int) -> None:
        """Close one link; the next use makes a new one."""
        self._drop(lambda key: key == (gid, purpose, member))

    def _drop(self, unwanted: Callable[[_Key], bool]) -> None:
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
        os.write(self._wake_write, b"x")
        self._thread.join()
        self._drop(lambda key: True)
        self._listener.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # -- dialling ------------------------------------------------------------------------------------------------

    def _dial(self, key: _Key, member: Member, check: Callable[[], None]) -> TcpLink:
        gid, purpose, _ = key
        streams: list[TcpStream] = []
        try:
            for index in range(self._streams):
                greeting = Greeting(self._token, gid, self._member, member.id, index, self._streams, purpose)
                streams.append(TcpStream(_greet(member, greeting, check), member.id))
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

    # -- accepting -----------------------------------------------------------------------------------------------

    def _accept_forever(self) -> None:
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        strangers: dict[int, _Stranger] = {}
        while not self._closed:
            for descriptor, _ in poller.poll(1000 if strangers else None):
                if descriptor == self._listener.fileno():
                    self._admit(poller, strangers)
                elif descriptor == self._wake_read:
                    os.read(self._wake_read, 16)
                else:
                    self._hear(poller, strangers, descriptor)
            now = time.monotonic()
            for descriptor, stranger in list(strangers.items()):
                if self._member >= 0 and len(stranger.data) == GREETING_BYTES:
                    self._examine(strangers.pop(descriptor))
                elif stranger.deadline < now:
                    self._turn_away(poller, strangers, descriptor)
        for descriptor in list(strangers):
            self._turn_away(poller, strangers, descriptor)

    def _admit(self, poller: select.poll, strangers: dict[int, _Stranger]) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(WAIT_SECONDS)  # out of descriptors: let somebody close one instead of spinning
            return
        if len(strangers) >= MAX_STRANGERS:
            self._turn_away(poller, strangers, next(iter(strangers)))
        sock.setblocking(False)
        strangers[sock.fileno()] = _Stranger(sock, time.monotonic() + GREETING_SECONDS)
        poller.register(sock, select.POLLIN)

    def _turn_away(self, poller: select.poll, strangers: dict[int, _Stranger], descriptor: int) -> None:
        stranger = strangers.pop(descriptor)
        if len(stranger.data) < GREETING_BYTES:
            poller.unregister(descriptor)
        stranger.sock.close()

    def _hear(self, poller: select.poll, strangers: dict[int, _Stranger], descriptor: int) -> None:
        """Read a stranger's greeting, or what there is of it; no more, since frames follow."""
        stranger = strangers[descriptor]
        try:
            part = stranger.sock.recv(GREETING_BYTES - len(stranger.data))
        except BlockingIOError:
            return
        except OSError:
            part = b""
        if not part:
            self._turn_away(poller, strangers, descriptor)
            return
        stranger.data += part
        if len(stranger.data) == GREETING_BYTES:
            poller.unregister(descriptor)

    def _examine(self, stranger: _Stranger) -> None:
        """Let in who knows our run and looks for us."""
        try:
            greeting = Greeting.unpack(bytes(stranger.data))
            if greeting.token != self._token or greeting.called != self._member:
                raise BadFrame("a peer of another run, or one that looks for somebody else")
            stranger.sock.sendall(ACCEPTED)
        except (BadFrame, OSError):
            stranger.sock.close()
            return
        self._welcome(greeting, TcpStream(stranger.sock, greeting.caller))

    def _welcome(self, greeting: Greeting, stream: TcpStream) -> None:
        key = (greeting.gid, greeting.purpose, greeting.caller)
        with self._changed:
            parts = self._partial.setdefault(key, {})
            if greeting.stream in parts:
                parts[greeting.stream].close()
            parts[greeting.stream] = stream
            if len(parts) < greeting.streams:
                return
            del self._partial[key]
            old = self._links.pop(key, None)
            if old is not None:
                self._retire(old)
            self._links[key] = TcpLink(key, [parts[index] for index in sorted(parts)])
            self._changed.notify_all()


def _listen(host: str, port: int) -> socket.socket:
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be compiled in and switched off
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)


def _greet(member: Member, greeting: Greeting, check: Callable[[], None]) -> socket.socket:
    """Connect to ``member``, say who we are, and wait until it has agreed."""
    family = socket.AF_INET6 if ":" in member.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _await_ready(sock, sock.connect_ex((member.host, member.port)), check)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(greeting.pack())
        answer = bytearray()
        while len(answer) < len(ACCEPTED):
            _poll(sock, select.POLLIN, check)
            part = sock.recv(len(ACCEPTED) - len(answer))
            if not part:
                raise LinkBroken(member.id, "closed", f"{member} hung up on our greeting")
            answer += part
        if answer != ACCEPTED:
            raise LinkBroken(member.id, "closed", f"what listens at {member} is not the peer we look for")
    except OSError as error:
        sock.close()
        evidence = "closed" if isinstance(error, ConnectionError) else "unacked"
        raise LinkBroken(member.id, evidence, f"cannot connect to {member}: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return sock


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


def _poll(sock: socket.socket, events: int, check: Callable[[], None]) -> None:
    poller = select.poll()
    poller.register(sock, events)
    deadline = time.monotonic() + CONNECT_SECONDS
    while not poller.poll(WAIT_SECONDS * 1e3):
        check()
        if time.monotonic() > deadline:
            raise OSError(errno.ETIMEDOUT, f"no answer within {CONNECT_SECONDS:.0f} s")
