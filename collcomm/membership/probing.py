"""Looks whether anything listens at an address, without waiting: a refusal proves that the process there is gone."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import zmq

from .effects import Probe

ANSWER_SECONDS = 1.0
MAX_PROBES = 64


class Probes:
    """Connection attempts under way; ``poller`` hears of their ends."""

    def __init__(self, poller: zmq.Poller):
        self._poller = poller
        self._open: dict[int, tuple[socket.socket, Probe, float]] = {}

    def start(self, probe: Probe, now: float) -> None:
        if len(self._open) >= MAX_PROBES:
            return
        member = probe.member
        sock = socket.socket(socket.AF_INET6 if ":" in member.host else socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect_ex((member.host, member.port))
        except OSError:  # no such host: that proves nothing
            sock.close()
            return
        self._open[sock.fileno()] = (sock, probe, now + ANSWER_SECONDS)
        self._poller.register(sock.fileno(), zmq.POLLOUT)

    def ended(self, ready: dict[object, int], now: float) -> Iterator[tuple[Probe, bool]]:
        """Those that have come to an end, and whether they were refused."""
        for descriptor, (sock, probe, deadline) in list(self._open.items()):
            if descriptor in ready or now > deadline:
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if descriptor in ready else 0
                self._forget(descriptor)
                yield probe, code == errno.ECONNREFUSED

    def _forget(self, descriptor: int) -> None:
        self._poller.unregister(descriptor)
        self._open.pop(descriptor)[0].close()

    def close(self) -> None:
        for descriptor in list(self._open):
            self._forget(descriptor)
