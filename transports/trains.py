"""Trains: bytes that are sent for a while to see how fast they arrive, over one or several streams, one way or both ways at
once.

On each stream a train is a sequence of chunks of `CHUNK_BYTES`, whose last byte is 0, or 1 in the stream's last chunk: so it
may end when its sender or receiver has seen enough, and what follows it is kept apart.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Protocol

from .base import LinkBroken
from .stream import WAIT_SECONDS, SocketStream

CHUNK_BYTES = 1 << 12  # 33 ms at 1 Mbit/s
BLOCK_BYTES = 1 << 16  # sent at a time
READ_BYTES = 1 << 18
FULL_SECONDS = 2e-4  # until a full path is looked at again
BEHIND_SECONDS = 1e-3  # a reader that is behind for so long is what limits the train
PATIENCE_SECONDS = 3.0  # for what is on the way when sending has ended, and for the other end to begin
MOST_BYTES = 1 << 30  # of a train that comes in


@cache
def _block() -> memoryview:
    """What trains are made of: chance, which nothing on the way can compress."""
    block = bytearray(os.urandom(BLOCK_BYTES))
    block[CHUNK_BYTES - 1 :: CHUNK_BYTES] = bytes(BLOCK_BYTES // CHUNK_BYTES)
    return memoryview(block)


class Gauge(Protocol):
    """Makes a rate of a train's progress."""

    def add(self, now: float, total: int) -> None: ...

    @property
    def rate(self) -> float: ...

    @property
    def seconds(self) -> float: ...

    @property
    def settled(self) -> bool: ...


class Budget(Protocol):
    """When a train ends at the latest, and how much of it is on the way at a time."""

    @property
    def seconds(self) -> float: ...

    @property
    def nbytes(self) -> int: ...

    @property
    def in_flight(self) -> int: ...


class _Tail:
    """What goes out on one stream: chunks without end, until `end` is called."""

    def __init__(self, stream: SocketStream):
        self.stream = stream
        self.sent = 0
        self._left: memoryview | None = None  # to be sent before the train is over

    @property
    def finished(self) -> bool:
        return self._left is not None and not self._left

    def end(self) -> None:
        if self._left is None:
            rest = -self.sent % CHUNK_BYTES
            at = BLOCK_BYTES - rest
            self._left = memoryview(bytes(_block()[at:]) + bytes(CHUNK_BYTES - 1) + b"\1")

    def pump(self) -> int:
        """Hand over what is taken, one block at most."""
        if self.finished:
            return 0
        if self._left is None:
            taken = self.stream.try_send(b"", _block()[self.sent % BLOCK_BYTES :])
        else:
            taken = self.stream.try_send(b"", self._left)
            self._left = self._left[taken:]
        self.sent += taken
        return taken


class _Head:
    """What comes in on one stream."""

    def __init__(self, stream: SocketStream, buffer: memoryview):
        self.stream = stream
        self.received = 0
        self.finished = False
        self._buffer = buffer

    def pump(self) -> int:
        """Take what is there, up to the train's end."""
        count = self.stream.try_receive(self._buffer)
        first = CHUNK_BYTES - 1 - self.received % CHUNK_BYTES  # the next flag
        flags = bytes(self._buffer[first:count:CHUNK_BYTES]) if first < count else b""
        last = flags.find(1)
        if last >= 0:
            used = first + last * CHUNK_BYTES + 1
            flags = flags[:last]
            if used < count:
                self.stream.unread(self._buffer[used:count])
            count = used
            self.finished = True
        if flags.strip(b"\0"):
            raise LinkBroken(self.stream.member, "closed", "a train of other bytes than those of this protocol")
        self.received += count
        return count


class Trains:
    """A train that goes out on ``outgoing`` and one that comes in on ``incoming``, of one member; either may be empty.

    ``sent`` hears how much of the first was acknowledged, ``received`` how much of the second has come. Sending ends after
    ``seconds`` or ``nbytes``, or when ``told_enough()``; ``in_flight`` bytes are on the way at most. ``on_settled()`` is
    called once, when ``received`` has settled. ``check()`` ends all by raising.
    """

    def __init__(
        self,
        outgoing: Sequence[SocketStream],
        incoming: Sequence[SocketStream],
        sent: Gauge,
        received: Gauge,
        budget: Budget,
        check: Callable[[], None],
        told_enough: Callable[[], bool] = lambda: False,
        on_settled: Callable[[], None] = lambda: None,
    ):
        buffer = memoryview(bytearray(READ_BYTES))
        heads = [_Head(stream, buffer) for stream in incoming]
        self._member = (*outgoing, *incoming)[0].member
        self._tails = [_Tail(stream) for stream in outgoing]
        self._heads = {head.stream.fileno(): head for head in heads}
        self._sent, self._received = sent, received
        self._budget = budget
        self._check = check
        self._told_enough = told_enough
        self._on_settled = on_settled
        self._settled = False
        self._total_in = 0
        self._behind = False  # the last read has not emptied the stream
        self._noted = 0.0

    def run(self) -> None:
        """Until both are over. Raises LinkBroken, also when the other end overdoes it."""
        began = time.monotonic()
        overdue = began + 2 * self._budget.seconds + PATIENCE_SECONDS
        for tail in self._tails:
            tail.stream.bound_queue(BLOCK_BYTES)
        while True:
            self._check()
            now = time.monotonic()
            if now > overdue:
                raise LinkBroken(self._member, "unacked", "a train has not come to its end in time")
            waits = self._send(now, now - began)
            came = self._take([d for d, head in self._heads.items() if head.stream.has_unread])
            if not self._tails and not self._heads:
                return
            came += self._take(self._poll(WAIT_SECONDS if waits and not came else 0.0))
            if came:
                self._arrived(came)

    def _send(self, now: float, elapsed: float) -> bool:
        """Go on with what goes out; whether there is nothing to be done but wait."""
        tails = self._tails
        if not tails:
            return True
        total = sum(tail.sent for tail in tails)
        if elapsed >= self._budget.seconds or total >= self._budget.nbytes or self._told_enough():
            for tail in tails:
                tail.end()
        on_the_way = sum(tail.stream.unacknowledged() for tail in tails)
        self._sent.add(now, max(0, total - on_the_way))
        if on_the_way > self._budget.in_flight:
            time.sleep(FULL_SECONDS)
            return False
        taken = sum([tail.pump() for tail in tails])
        if all(tail.finished for tail in tails):
            self._tails = []
        return not taken

    def _poll(self, seconds: float) -> list[int]:
        """Descriptors on which something came; waits until then, or until more can be sent."""
        poller = select.poll()
        wanted = dict.fromkeys(self._heads, select.POLLIN)
        if seconds:
            for tail in self._tails:
                descriptor = tail.stream.fileno()
                wanted[descriptor] = wanted.get(descriptor, 0) | (0 if tail.finished else select.POLLOUT)
        for descriptor, events in wanted.items():
            poller.register(descriptor, events)
        return [d for d, events in poller.poll(seconds * 1e3) if d in self._heads and events & ~select.POLLOUT]

    def _take(self, descriptors: Sequence[int]) -> int:
        came = 0
        for descriptor in descriptors:
            head = self._heads[descriptor]
            count = head.pump()
            self._behind = count == READ_BYTES
            came += count
            if head.finished:
                del self._heads[descriptor]
        return came

    def _arrived(self, count: int) -> None:
        self._total_in += count
        now = time.monotonic()
        if self._behind and self._heads and now - self._noted < BEHIND_SECONDS:
            return  # a reader that was away has more to read: what has come by now is not known yet
        self._noted = now
        self._received.add(now, self._total_in)
        if self._total_in > MOST_BYTES:
            raise LinkBroken(self._member, "closed", "a train that does not end")
        if not self._settled and self._received.settled:
            self._settled = True
            self._on_settled()
