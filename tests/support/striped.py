"""Two ranks in one process, joined by links of several real connections, some of which lead through a slow relay."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
from collcomm.transports.base import LinkBroken
from collcomm.transports.poller import SocketPoller
from collcomm.transports.stream import TcpStream

from collcomm.clock import SYSTEM
from collcomm.collectives import Schedule, Span, Step
from collcomm.collectives.schedule import copy, recv, send
from collcomm.engine.attempt import Attempt, Staging
from collcomm.engine.inline import run_commit
from collcomm.engine.plan import Plan, compile_plan
from collcomm.engine.progress import Progress
from collcomm.engine.streaming import run_streaming
from collcomm.types import Member, View

CHUNK = 1 << 18  # bytes: one frame each
RUN_SECONDS = 30.0
MEMBERS = (Member(1, "a", "127.0.0.1", 1), Member(2, "b", "127.0.0.1", 2))
_RESET = struct.pack("ii", 1, 0)
_serials = count(1)


class Relay:
    """Carries one connection, both ways, at ``rate`` bytes per second each; ``passed``: bytes, by direction."""

    def __init__(self, near: socket.socket, far: socket.socket, rate: float):
        self.rate = rate
        self.passed = [0, 0]
        self._ends = (near, far)
        for direction in (0, 1):
            threading.Thread(target=self._carry, args=(direction,), daemon=True).start()

    def _carry(self, direction: int) -> None:
        source, target = self._ends[direction], self._ends[1 - direction]
        piece = max(1024, int(self.rate / 100))
        try:
            while data := source.recv(piece):
                target.sendall(data)
                self.passed[direction] += len(data)
                time.sleep(len(data) / self.rate)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def reset(self) -> None:
        """Lose what is on the way, and tell both ends."""
        for end in self._ends:
            try:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


class TestLink:
    """One end of a link; ``add`` puts a stream in place."""

    def __init__(self, member: int, streams: Sequence[TcpStream]):
        self.member = member
        self.streams = tuple(streams)
        for stream in self.streams:
            stream.bound_queue()

    def add(self, stream: TcpStream) -> None:
        stream.bound_queue()
        self.streams = (*self.streams, stream)

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


def connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def streams(rate: float | None = None) -> tuple[tuple[TcpStream, TcpStream], Relay | None]:
    """Both ends of a new connection, through a relay if it has a rate."""
    serial = next(_serials)
    near, far = connection()
    relay = None
    if rate is not None:
        middle, (other, end) = far, connection()
        for sock in (middle, other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 15)
        relay, far = Relay(middle, other, rate), end
    return (TcpStream(near, 2, serial=serial), TcpStream(far, 1, serial=serial)), relay


@contextmanager
def linked(*rates: float | None) -> Iterator[tuple[TestLink, TestLink, list[Relay | None]]]:
    """The ends of a link with a stream for each rate."""
    made = [streams(rate) for rate in rates]
    links = TestLink(2, [ends[0] for ends, _ in made]), TestLink(1, [ends[1] for ends, _ in made])
    relays = [relay for _, relay in made]
    try:
        yield *links, relays
    finally:
        for link in links:
            link.close()
        for relay in relays:
            if relay is not None:
                relay.reset()


class Rank:
    """One end: makes attempts, and runs plans in them."""

    def __init__(self, rank: int, link: Any, clock: Any = SYSTEM):
        self.rank = rank
        self.link = link
        self.broken: LinkBroken | None = None
        self.progress = Progress(0, View(1, MEMBERS), 0)
        self.attempt = Attempt(
            self.progress, lambda *_: link, lambda: [link], lambda *_: None, Staging(4096), clock, SocketPoller
        )
        self.attempt.striped = True
        self._seq = 0

    def run(self, plan: Plan, buffers: dict[str, Any], dtype: Any = np.uint8, ufunc: Any = None) -> None:
        self._seq += 1
        self.attempt.begin(1, self._seq, 77, self.rank, 2, 1e18)
        run_streaming(plan, buffers, np.dtype(dtype), ufunc, self.attempt)
        run_commit(self.attempt)


def together(*bodies: Callable[[], None]) -> None:
    """Each in a thread; raises the first error."""
    errors: list[BaseException] = []

    def run(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(RUN_SECONDS)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a rank hangs"


def plan(rank: int, steps: Sequence[Step], **chunks: int) -> Plan:
    """Of ``steps`` between two ranks, on chunks of `CHUNK` bytes."""
    schedule = Schedule("test", "test", 2, rank, chunks, tuple(steps))
    bounds = {name: [CHUNK * index for index in range(number + 1)] for name, number in chunks.items()}
    return compile_plan(schedule, bounds, 1)


def one_way(chunks: int) -> tuple[Plan, Plan]:
    """Rank 0 gives its input to rank 1."""
    whole = Span("in", 0, chunks), Span("out", 0, chunks)
    return plan(0, [send(1, whole[0])], **{"in": chunks}), plan(1, [recv(0, whole[1])], out=chunks)


def there_and_back(chunks: int, slots: int = 2) -> tuple[Plan, Plan]:
    """Rank 0 sends its input piece by piece, and gets it back; rank 1 has room for two pieces, which it uses in turn."""
    spans = [(Span("in", index, index + 1), Span("out", index, index + 1)) for index in range(chunks)]
    near = [send(1, source) for source, _ in spans] + [recv(1, target) for _, target in spans]
    far: list[Step] = []
    for index in range(chunks):
        slot = Span("tmp", index % slots, index % slots + 1)
        far += [recv(0, slot), send(0, slot)]
    return plan(0, near, **{"in": chunks, "out": chunks}), plan(1, far, tmp=slots)


def through_slots(chunks: int, slots: int = 2) -> tuple[Plan, Plan]:
    """Rank 0 gives its input to rank 1, which takes each piece out of one of a few slots: later pieces wait for earlier ones."""
    far: list[Step] = []
    for index in range(chunks):
        slot = Span("tmp", index % slots, index % slots + 1)
        far += [recv(0, slot), copy(Span("out", index, index + 1), slot)]
    near = [send(1, Span("in", index, index + 1)) for index in range(chunks)]
    return plan(0, near, **{"in": chunks}), plan(1, far, out=chunks, tmp=slots)
