"""Shared memory: Unix sockets between the members of one host, for messages and to hand over windows (`window`).

The sockets have abstract names, which live in a network namespace and leave no file. They are made and proved as TCP
connections are; the kernel closes them when their process dies, which is how the death of a window's owner is seen.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Sequence

from ..types import Member
from .dialling import CONNECT_SECONDS, Source
from .door import Line
from .stream import SocketStream
from .tls import Tls
from .window import supported

BACKLOG = 1024
RETRY_SECONDS = 0.002


class ShmRoute:
    """``host`` and ``port``: the address that this peer is known by, unique among the peers of its host. ``host_id``: what
    members that share the host have in common. ``streams``: connections per link, as many as of TCP, so that a plan need not ask.

    Raises OSError when the name is taken, or the machine cannot.
    """

    name = "shm"
    sources: Sequence[Source] = ()
    tls: Tls | None = None  # nothing leaves the host; membership is proved all the same

    def __init__(self, host: str, port: int, host_id: str, streams: int = 1):
        reason = supported()
        if reason:
            raise OSError(errno.ENOTSUP, reason)
        self.streams = streams
        self._host_id = host_id
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.listener.bind(_address(host, port))
            self.listener.listen(BACKLOG)
        except BaseException:
            self.listener.close()
            raise

    def reaches(self, member: Member) -> bool:
        return member.host_id == self._host_id and self.name in member.offers.split(",")

    def dial(
        self,
        member: Member,
        check: Callable[[], None],
        source: Source | None = None,
        patience: float = CONNECT_SECONDS,
    ) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            waited = 0.0
            while code := sock.connect_ex(_address(member.host, member.port)):
                if code != errno.EAGAIN or waited > patience:  # EAGAIN: its backlog is full
                    raise (ConnectionRefusedError if code == errno.ECONNREFUSED else OSError)(code, os.strerror(code))
                select.select([], [], [], RETRY_SECONDS)
                waited += RETRY_SECONDS
                check()
            return sock
        except BaseException:
            sock.close()
            raise

    def greeted(self, sock: socket.socket, check: Callable[[], None]) -> Line:
        return sock

    def stream(self, line: Line, member: int) -> SocketStream:
        assert isinstance(line, socket.socket)
        return SocketStream(line, member)


def _address(host: str, port: int) -> str:
    return f"\0collcomm/{host}/{port}"
