"""Dials whoever asks for it, to find out whether others could: one connection to the asker's own address, and one token read.

Why nobody is harmed by that: the address is that from which the asker's own TCP connection comes, which it cannot forge; nothing
is sent there; no port below 1024 is dialled; and how many there are at a time, and how often one may ask, is bounded. Whoever
asks learns of a port what it could learn at home.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

ANSWER_SECONDS = 2.0
MAX_DIALS = 8

REACHED, REFUSED, SILENT, OTHER, UNREACHABLE, BUSY = "reached", "refused", "silent", "other", "unreachable", "busy"


@dataclass(frozen=True)
class Dial:
    """Asked for by the connection ``key`` under ``number``: who listens at ``address`` has to say ``token`` first."""

    key: bytes
    number: int
    address: str
    port: int
    token: bytes


class Dials:
    """Those under way; ``poller`` hears of what happens to them."""

    def __init__(self, poller: zmq.Poller):
        self._poller = poller
        self._open: dict[int, tuple[socket.socket, Dial, float]] = {}
        self._heard: dict[int, bytes] = {}  # by descriptor, once connected

    def start(self, dial: Dial, now: float) -> tuple[str, str] | None:
        """Begin. Returns outcome and reason when it has come to its end already."""
        if len(self._open) >= MAX_DIALS:
            return BUSY, "the coordinator dials others just now"
        sock = socket.socket(socket.AF_INET6 if ":" in dial.address else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            code = sock.connect_ex((dial.address, dial.port))
        except OSError as error:
            sock.close()
            return UNREACHABLE, str(error)
        if code not in (0, errno.EINPROGRESS):
            sock.close()
            return _outcome_of(code)
        self._open[sock.fileno()] = (sock, dial, now + ANSWER_SECONDS)
        self._poller.register(sock.fileno(), zmq.POLLOUT)
        return None

    def ended(self, ready: dict[object, int], now: float) -> Iterator[tuple[Dial, str, str]]:
        """Those that have come to an end, with the outcome, and its reason in words."""
        for descriptor, (sock, dial, deadline) in list(self._open.items()):
            end = self._look(descriptor, sock, dial) if descriptor in ready else None
            if end is None and now > deadline:
                said = "nothing was said there" if descriptor in self._heard else "no answer"
                end = (OTHER if descriptor in self._heard else SILENT, f"{said} within {ANSWER_SECONDS:g} s")
            if end is not None:
                self._forget(descriptor)
                yield dial, *end

    def _look(self, descriptor: int, sock: socket.socket, dial: Dial) -> tuple[str, str] | None:
        if descriptor not in self._heard:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                return _outcome_of(code)
            self._heard[descriptor] = b""
            self._poller.modify(descriptor, zmq.POLLIN)
            return None
        try:
            data = sock.recv(len(dial.token) - len(self._heard[descriptor]))
        except BlockingIOError:
            return None
        except OSError as error:
            return OTHER, f"it accepted the connection and broke it: {error.strerror}"
        self._heard[descriptor] += data
        if self._heard[descriptor] == dial.token:
            return REACHED, ""
        return (
            None if data and dial.token.startswith(self._heard[descriptor]) else (OTHER, "something else answers there")
        )

    def _forget(self, descriptor: int) -> None:
        self._poller.unregister(descriptor)
        self._heard.pop(descriptor, None)
        self._open.pop(descriptor)[0].close()

    def close(self) -> None:
        for descriptor in list(self._open):
            self._forget(descriptor)


def _outcome_of(code: int) -> tuple[str, str]:
    if code == errno.ECONNREFUSED:
        return REFUSED, os.strerror(code)
    return (SILENT if code == errno.ETIMEDOUT else UNREACHABLE), os.strerror(code)
