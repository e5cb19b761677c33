"""One connection to a peer, made and proved."""

from __future__ import annotations

import errno
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ..types import Member
from .base import LinkBroken
from .door import GREETING_SECONDS, Line
from .handshake import Dialler, Refused
from .stream import WAIT_SECONDS, SocketStream
from .tls import Tls

CONNECT_SECONDS = 5.0  # a host that has not answered a connection or greeting by then is out of reach
ANSWER_SECONDS = GREETING_SECONDS + 1.0  # it may wait for its view, and is told so long that we are there

Source = tuple[str, int]  # local address ("": any) and port (0: any) of a connection


class Route(Protocol):
    """One way in which connections are made. ``listener``: the transport closes it; ``streams``: connections per link; ``tls``:
    what the door speaks, if anything. ``sources``: local ends of a link's connections, in turn; none: the system's choice."""

    name: str
    listener: socket.socket
    streams: int
    tls: Tls | None
    sources: Sequence[Source]

    def reaches(self, member: Member) -> bool: ...

    def dial(
        self,
        member: Member,
        check: Callable[[], None],
        source: Source | None = None,
        patience: float = CONNECT_SECONDS,
    ) -> socket.socket:
        """A connection to ``member`` within ``patience`` seconds, not blocking, without TLS, from ``source`` if that means
        anything here. Raises OSError."""

    def greeted(self, sock: socket.socket, check: Callable[[], None]) -> Line:
        """One that is there already, non-blocking, ready for the greeting of who dials. Raises OSError, and closes it then."""

    def stream(self, line: Line, member: int) -> SocketStream: ...


def connected(
    route: Route,
    member: Member,
    check: Callable[[], None],
    source: Source | None = None,
    patience: float = CONNECT_SECONDS,
) -> Line:
    """As `Route.dial`, ready for a greeting."""
    return route.greeted(route.dial(member, check, source, patience), check)


def source_of(sources: Sequence[Source], index: int) -> Source | None:
    """Where connection number ``index`` comes from. A port serves one connection: later rounds take any."""
    if not sources:
        return None
    address, port = sources[index % len(sources)]
    return address, port if index < len(sources) else 0


def greet(connect: Callable[[], Line], member: Member, dialler: Dialler, check: Callable[[], None]) -> Line:
    """Connect to ``member``, say who we are, and prove it to each other. Raises LinkBroken, Outdated."""
    line: Line | None = None
    try:
        line = connect()
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
