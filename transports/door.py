"""A peer's listening port: takes in connections, hears who is there, and opens to members of the present view only.

One thread, which never waits for anybody: who does not speak costs a descriptor for a few seconds. When too many wait, the
address with the most goes first, so that a crowd from one place does not keep others out.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import secrets
import select
import socket
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .frames import NONCE_BYTES, Greeting
from .handshake import Acceptor, Refused, State
from .tls import Tls, TlsLine

log = logging.getLogger("collcomm.transport")
GREETING_SECONDS = 5.0  # a connection that has not proved who it is by then is dropped
SWEEP_SECONDS = 0.5  # how late that may be noticed
MOST_STRANGERS = 1024  # connections that have not proved who they are; less where descriptors are scarce
MOST_LOGGED = 1000
OUT_OF_DESCRIPTORS_SECONDS = 0.005
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Standing(NamedTuple):
    """What this peer is in the present view. ``member`` -1: it does not know yet. ``keys``: of each pair, by the other member;
    ``ways``: the numbers of the ways to them that are not the first."""

    member: int = -1
    epoch: int = -1
    keys: Mapping[int, bytes] = {}
    ways: Mapping[int, int] = {}


Line = socket.socket | TlsLine


@dataclass
class _Stranger:
    line: Line
    host: str
    deadline: float
    side: Acceptor = field(default_factory=lambda: Acceptor(secrets.token_bytes(NONCE_BYTES)))


class Door:
    """``standing(greeting)``: this peer's place now, in the group that it is for.
    ``welcome(greeting, line)`` takes over who has proved itself.
    ``tls``: what everybody has to speak, if given."""

    def __init__(
        self,
        listener: socket.socket,
        standing: Callable[[Greeting], Standing],
        welcome: Callable[[Greeting, Line], None],
        tls: Tls | None = None,
    ):
        self._listener = listener
        self._standing = standing
        self._welcome = welcome
        self._tls = tls
        self._most = _most_strangers()
        self._strangers: dict[int, _Stranger] = {}
        self._from: Counter[str] = Counter()
        self._logged: set[str] = set()
        self._poller = select.poll()
        self._closed = False
        self._brought: deque[socket.socket] = deque()
        listener.setblocking(False)
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="collcomm-accept", daemon=True)
        self._thread.start()

    def look_again(self) -> None:
        """The standing has changed: some who wait may be let in."""
        os.write(self._wake_write, b"x")

    def bring(self, sock: socket.socket) -> None:
        """Somebody who comes through a relay: to be heard like one that the listener takes in."""
        self._brought.append(sock)
        self.look_again()

    def close(self) -> None:
        """Stop, and turn away all who wait. Call once."""
        self._closed = True
        self.look_again()
        self._thread.join()
        self._listener.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # -- the thread ----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._poller.register(self._listener, select.POLLIN)
        self._poller.register(self._wake_read, select.POLLIN)
        swept = time.monotonic()
        while not self._closed:
            for descriptor, _ in self._poller.poll(SWEEP_SECONDS * 1e3 if self._strangers else None):
                if descriptor == self._listener.fileno():
                    self._accept()
                elif descriptor == self._wake_read:
                    os.read(self._wake_read, 4096)
                    while self._brought:
                        self._take(self._brought.popleft(), "a relay")
                    for waiting in [d for d, s in self._strangers.items() if s.side.state is State.ASKED]:
                        self._attend(waiting)
                elif descriptor in self._strangers:  # else turned away in this very turn
                    self._attend(descriptor)
            now = time.monotonic()
            if now - swept >= SWEEP_SECONDS:
                swept = now
                for descriptor in [d for d, s in self._strangers.items() if s.deadline < now]:
                    self._turn_away(descriptor, self._delay_of(descriptor))
        for descriptor in list(self._strangers):
            self._turn_away(descriptor)
        while self._brought:
            self._brought.popleft().close()

    def _accept(self) -> None:
        try:
            sock, address = self._listener.accept()
        except OSError as error:
            if error.errno in _SCARCE:
                time.sleep(OUT_OF_DESCRIPTORS_SECONDS)  # let somebody close one instead of spinning
            return
        self._take(sock, str(address[0]) if address else "this host")

    def _take(self, sock: socket.socket, host: str) -> None:
        if len(self._strangers) >= self._most:
            crowd = self._from.most_common(1)[0][0]
            oldest = next(d for d, stranger in self._strangers.items() if stranger.host == crowd)
            self._turn_away(oldest, f"{self._most} connections have not said who they are, most of them from there")
        sock.setblocking(False)
        line = sock if self._tls is None else self._tls.accepted(sock)
        self._strangers[sock.fileno()] = _Stranger(line, host, time.monotonic() + GREETING_SECONDS)
        self._from[host] += 1
        self._poller.register(sock, select.POLLIN)

    def _attend(self, descriptor: int) -> None:
        stranger = self._strangers[descriptor]
        try:
            self._advance(descriptor, stranger)
        except Refused as refused:
            self._turn_away(descriptor, str(refused))
        except ssl.SSLError as error:
            self._turn_away(descriptor, f"TLS: {error.reason or error}")
        except OSError:
            self._turn_away(descriptor)

    def _advance(self, descriptor: int, stranger: _Stranger) -> None:
        """As far as it goes without waiting. Raises Refused, OSError (it has hung up)."""
        side, line = stranger.side, stranger.line
        if isinstance(line, TlsLine) and not line.handshake():
            return
        while True:
            if side.state is State.ASKED and side.greeting is not None:
                answer = side.answer(*self._standing(side.greeting))
                if answer is None:  # nothing to read until our view has come
                    self._stop_listening(descriptor)
                    return
                self._listen(descriptor)
                _say(line, answer)
            if side.state is State.OUTDATED:
                self._turn_away(descriptor)
                return
            try:
                part = line.recv(side.wants)  # no more, since frames follow
            except BlockingIOError:
                return
            if not part:
                raise ConnectionResetError
            answer = side.receive(part)
            if side.state is State.DONE:
                self._let_in(descriptor, stranger, answer)
                return

    def _let_in(self, descriptor: int, stranger: _Stranger, proof: bytes) -> None:
        greeting = stranger.side.greeting
        assert greeting is not None
        if (
            greeting.caller not in self._standing(greeting).keys
        ):  # it was a member when we answered: no stranger, but gone
            raise ConnectionResetError
        _say(stranger.line, proof)
        self._poller.unregister(descriptor)
        self._forget(descriptor)
        try:
            self._welcome(greeting, stranger.line)
        except (
            OSError,
            RuntimeError,
        ) as error:  # no more descriptors, or threads: the others find this connection closed
            log.warning("a connection that was let in is closed again: %s", error)
            stranger.line.close()

    # -- who waits -----------------------------------------------------------------------------------------------

    def _listen(self, descriptor: int) -> None:
        self._poller.register(descriptor, select.POLLIN)

    def _stop_listening(self, descriptor: int) -> None:
        try:
            self._poller.unregister(descriptor)
        except KeyError:
            pass  # it waits already

    def _forget(self, descriptor: int) -> None:
        host = self._strangers.pop(descriptor).host
        self._from[host] -= 1
        if not self._from[host]:
            del self._from[host]

    def _delay_of(self, descriptor: int) -> str:
        side = self._strangers[descriptor].side
        if side.state is State.ASKED and side.greeting is not None:
            return f"it spoke of view {side.greeting.epoch}, which has not come here within {GREETING_SECONDS:g} s"
        return f"it did not say and prove within {GREETING_SECONDS:g} s who it is"

    def _turn_away(self, descriptor: int, why: str = "") -> None:
        """``why`` is logged once per address: who knocks a thousand times gets one line."""
        stranger = self._strangers[descriptor]
        self._stop_listening(descriptor)
        self._forget(descriptor)
        if why and stranger.host not in self._logged and len(self._logged) < MOST_LOGGED:
            self._logged.add(stranger.host)
            log.warning("refused a data connection from %s (said once per address): %s", stranger.host, why)
        stranger.line.close()


def _say(line: Line, data: bytes) -> None:
    if line.send(data) != len(data):  # some bytes on a fresh connection: the kernel takes them or something is wrong
        raise ConnectionResetError


def _most_strangers() -> int:
    """A quarter of the descriptors that this process may have at most: the rest is for links and the program."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_STRANGERS if soft == resource.RLIM_INFINITY else max(16, min(MOST_STRANGERS, soft // 4))
