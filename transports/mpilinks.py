"""Byte streams over MPI messages, so that schedules and send / recv run over MPI as they do over TCP.

`MpiSocket` is what a stream sees of a socket: bytes that are given to it travel as messages of at most `PIECE_BYTES`, copied
before they go, so that the giver may change them; MPI keeps messages of one pair and tag in their order.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np

from ..types import Member
from .base import DropsLinks, LinkBroken, LinkKey, TransportClosed
from .mpi import Comm, CommFailed, Pending, leave_to_mpi
from .poller import Wanted
from .stream import SPINS, WAIT_SECONDS, SocketStream

PIECE_BYTES = (1 << 18) + 64  # a frame with its header
IN_FLIGHT = 8  # pieces that one stream has given to MPI and MPI still needs
NAP_SECONDS = 50e-6

_descriptors = count(1 << 30)  # no file's; only for pollers to tell streams apart


class MpiSocket:
    """One direction each way between this process and ``rank`` of ``comm``."""

    def __init__(self, comm: Comm, rank: int, tag: int):
        self._comm, self._rank, self._tag = comm, rank, tag
        self._flying: deque[tuple[Pending, Any]] = deque()
        self._come: memoryview | None = None
        self._descriptor = next(_descriptors)

    def fileno(self) -> int:
        return self._descriptor

    # -- sending ------------------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        try:
            while self._flying and self._flying[0][0].done():
                self._flying.popleft()
        except CommFailed:
            self._flying.popleft()
            return True  # the next send says what is wrong
        return len(self._flying) < IN_FLIGHT

    @property
    def busy(self) -> bool:
        """Whether MPI still needs a piece."""
        return not self.writable or bool(self._flying)

    def sendmsg(self, buffers: Sequence[Any], _ancillary: Any = (), flags: int = 0) -> int:
        self._await(lambda: self.writable, flags)
        parts = [memoryview(part).cast("B") for part in buffers]
        piece = np.empty(min(PIECE_BYTES, sum(len(part) for part in parts)), np.uint8)
        filled = 0
        for part in parts:
            taken = min(len(part), piece.size - filled)
            piece[filled : filled + taken] = part[:taken]
            filled += taken
        try:
            self._flying.append((self._comm.send(piece, filled, self._rank, self._tag), piece))
        except CommFailed as failed:
            raise ConnectionResetError(errno.ECONNRESET, str(failed)) from None
        return filled

    def send(self, data: Any, flags: int = 0) -> int:
        return self.sendmsg((data,), (), flags)

    # -- receiving ----------------------------------------------------------------------------------------------------

    @property
    def readable(self) -> bool:
        try:
            return self._come is not None or self._fetch()
        except ConnectionResetError:
            return True  # the next receive says so

    def recv_into(self, target: memoryview, _nbytes: int = 0, flags: int = 0) -> int:
        if self._come is None:
            self._await(self._fetch, flags)
        assert self._come is not None
        taken = min(len(target), len(self._come))
        target[:taken] = self._come[:taken]
        self._come = self._come[taken:] if taken < len(self._come) else None
        return taken

    def _fetch(self) -> bool:
        try:
            found = self._comm.incoming(self._rank, self._tag)
            if found is None:
                return False
            data = np.empty(found.nbytes, np.uint8)
            found.receive(data)
        except CommFailed as failed:
            raise ConnectionResetError(errno.ECONNRESET, str(failed)) from None
        self._come = memoryview(data.data)
        return True

    def _await(self, condition: Callable[[], bool], flags: int) -> None:
        if condition():
            return
        if not flags & socket.MSG_DONTWAIT:
            deadline = time.monotonic() + WAIT_SECONDS
            while time.monotonic() < deadline:
                time.sleep(NAP_SECONDS)
                if condition():
                    return
        raise BlockingIOError

    # -- what else a stream asks of a socket --------------------------------------------------------------------------

    def settimeout(self, seconds: float | None) -> None:
        """Waits have their own bound."""

    def setsockopt(self, *_: Any) -> None:
        """There are no options."""

    def getsockopt(self, *_: Any) -> bytes:
        raise OSError(errno.ENOPROTOOPT, "MPI tells nothing about its paths")

    getpeername = getsockopt

    def shutdown(self, how: int) -> None:
        """MPI has no end of a stream."""

    def close(self) -> None:
        self._come = None
        if self.busy:
            leave_to_mpi(*(piece for _, piece in self._flying))


class MpiLink:
    def __init__(self, member: int, sock: MpiSocket):
        self.member = member
        self.socket = sock
        self.streams = (SocketStream(sock, member),)  # type: ignore[arg-type]

    def close(self) -> None:
        self.socket.close()


class MpiTransport(DropsLinks):
    """Links over one communicator per group, which nobody revokes: messages between the living outlast all deaths."""

    offers = ("mpi",)

    def __init__(self) -> None:
        self.sockets: dict[int, MpiSocket] = {}
        self.moved = [0, 0]  # bytes that native collectives took and gave
        self._wires: dict[int, tuple[Comm, dict[int, int]]] = {}
        self._links: dict[LinkKey, MpiLink] = {}
        self._cut: set[LinkKey] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._gone = [0, 0]

    def wire(self, gid: int, comm: Comm, ranks: dict[int, int]) -> None:
        """The links of group ``gid`` run over ``comm``, where member m has the rank ``ranks[m]``."""
        self._wires[gid] = (comm, ranks)

    def link(self, gid: int, purpose: int, member: Member, check: Callable[[], None]) -> MpiLink:
        key = (gid, purpose, member.id)
        with self._lock:
            if self._closed:
                raise TransportClosed("the communicator was closed")
            if key in self._cut:
                raise LinkBroken(member.id, "closed", "a message was cut short, and MPI has no second connection")
            found = self._links.get(key)
            if found is None:
                comm, ranks = self._wires[gid]
                found = self._links[key] = MpiLink(member.id, MpiSocket(comm, ranks[member.id], purpose))
                self.sockets[found.socket.fileno()] = found.socket
            return found

    def links_at_once(self, gid: int, purpose: int, member: int) -> bool:
        return True

    def poller(self) -> MpiPoller:
        return MpiPoller(self.sockets)

    def drop_link(self, gid: int, purpose: int, member: int, stream: Any = None) -> None:
        """For good: what came next would be taken for the rest of what was cut short."""
        with self._lock:
            self._cut.add((gid, purpose, member))
        super().drop_link(gid, purpose, member)

    def _drop(self, unwanted: Callable[[LinkKey], bool]) -> None:
        with self._lock:
            for key in [key for key in self._links if unwanted(key)]:
                link = self._links.pop(key)
                self._gone[0] += link.streams[0].bytes_sent
                self._gone[1] += link.streams[0].bytes_received
                self.sockets.pop(link.socket.fileno(), None)
                link.close()

    def traffic(self) -> tuple[int, int]:
        """Bytes given to MPI and taken from it so far: messages with their headers, collectives without."""
        with self._lock:
            streams = [link.streams[0] for link in self._links.values()]
            return (
                self._gone[0] + self.moved[0] + sum(stream.bytes_sent for stream in streams),
                self._gone[1] + self.moved[1] + sum(stream.bytes_received for stream in streams),
            )

    def flush(self, seconds: float) -> None:
        """Let MPI finish with what was sent: receivers may still have to come."""
        deadline = time.monotonic() + seconds
        while any(sock.busy for sock in list(self.sockets.values())) and time.monotonic() < deadline:
            time.sleep(NAP_SECONDS)

    def close(self) -> None:
        self._drop(lambda key: True)
        self._closed = True


class MpiPoller(Wanted):
    """poll(2) over `MpiSocket`s."""

    def __init__(self, sockets: dict[int, MpiSocket]):
        super().__init__()
        self._sockets = sockets

    def poll(self, certain: list[int]) -> list[tuple[int, int]]:
        """Ready descriptors after a few milliseconds at most; ``certain`` ones are readable in any case."""
        for _ in range(1 if certain else SPINS):
            if ready := self._ready(certain):
                return ready
            os.sched_yield()
        deadline = time.monotonic() + WAIT_SECONDS
        while not (ready := self._ready(certain)) and time.monotonic() < deadline:
            time.sleep(NAP_SECONDS)
        return ready

    def _ready(self, certain: list[int]) -> list[tuple[int, int]]:
        found = []
        for descriptor, wanted in self._wanted.items():
            events = 0
            if wanted & select.POLLIN and (descriptor in certain or self._sockets[descriptor].readable):
                events |= select.POLLIN
            if wanted & select.POLLOUT and self._sockets[descriptor].writable:
                events |= select.POLLOUT
            if events:
                found.append((descriptor, events))
        return found
