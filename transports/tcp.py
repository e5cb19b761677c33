"""TCP: one listening port per peer, with TLS if there are certificates."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import sys
from collections.abc import Callable, Sequence

from ..types import Member
from .dialling import ANSWER_SECONDS, CONNECT_SECONDS, Source, await_socket
from .door import Line
from .frames import MAX_STREAMS
from .stream import TcpStream
from .tls import Tls, TlsLine, TlsStream

BACKLOG = 1024
_BIND_ADDRESS_NO_PORT = 24  # of Linux
_REFUSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


class TcpRoute:
    """``host``: the address to listen on; "" for all of this machine's. ``streams``: connections per link, 1 to 64.
    ``tls``: the certificates with which all connections are encrypted, if given. ``sources``: local addresses (of several cards)
    that a link's connections come from, in turn, if given, each with a port or 0."""

    name = "tcp"

    def __init__(
        self,
        host: str = "",
        port: int = 0,
        streams: int = 1,
        tls: Tls | None = None,
        sources: Sequence[str | Source] = (),
    ):
        if not 1 <= streams <= MAX_STREAMS:
            raise ValueError(f"streams per link must be from 1 to {MAX_STREAMS}, not {streams}")
        self.streams = streams
        self.tls = tls
        self.sources: Sequence[Source] = [(source, 0) if isinstance(source, str) else source for source in sources]
        self.listener = _listen(host, port)
        self.port: int = self.listener.getsockname()[1]

    def reaches(self, member: Member) -> bool:
        return not member.offers or self.name in member.offers.split(",")

    def dial(
        self,
        member: Member,
        check: Callable[[], None],
        source: Source | None = None,
        patience: float = CONNECT_SECONDS,
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in member.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if source is not None:
                _bind(sock, source)
            code = sock.connect_ex((member.host, member.port))
            if code == errno.EINPROGRESS:
                await_socket(sock, select.POLLOUT, check, patience)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise (ConnectionRefusedError if code in _REFUSED else OSError)(code, os.strerror(code))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            sock.close()
            raise
        return sock

    def greeted(self, sock: socket.socket, check: Callable[[], None]) -> Line:
        try:
            if self.tls is None:
                return sock
            line = self.tls.dialled(sock)
            while not line.handshake():
                await_socket(sock, select.POLLIN, check, ANSWER_SECONDS)
            return line
        except BaseException:
            sock.close()
            raise

    def stream(self, line: Line, member: int) -> TcpStream:
        return TlsStream(line, member) if isinstance(line, TlsLine) else TcpStream(line, member)


def _bind(sock: socket.socket, source: Source) -> None:
    """Have a connection come from there. The port may be one that an earlier connection to the same peer had."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if not source[1] and sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)  # chosen at connect(): more are to be had
    sock.bind(source)


def _listen(host: str, port: int) -> socket.socket:
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 may be compiled in and switched off
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
    return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)
