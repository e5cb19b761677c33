"""One attempt at one operation in one view: what the executors share, and what they raise when it cannot go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..clock import Clock
from ..transports.base import Link, LinkBroken, Poller, Stream
from ..transports.frames import BadFrame, Header, unpack
from .progress import Halted, Progress

STALL_SECONDS = 0.5  # without a byte in either direction, tell the coordinator (again)
PATH_DEAD_SECONDS = 1.5  # the other kernel owes us an acknowledgement for that long: the path is gone


class Mismatch(Exception):
    """A peer's frame belongs to another call than ours."""


class Attempt:
    """``links(rank)`` gives the link to a rank, ``open_links()`` all there are; ``on_stall(attempt, ranks)`` tells that
    nothing has come from ``ranks``; ``poller()`` makes something to wait with for several streams.

    One object serves a communicator's attempts one after the other; `begin` sets it to the next.
    """

    __slots__ = (
        "_clock",
        "_links",
        "_on_stall",
        "_open_links",
        "_report_at",
        "deadline",
        "epoch",
        "fingerprint",
        "poller",
        "progress",
        "rank",
        "seq",
        "size",
        "staging",
        "streams",
    )

    def __init__(
        self,
        progress: Progress,
        links: Callable[[int, Attempt], Link],
        open_links: Callable[[], Sequence[Link]],
        on_stall: Callable[[Attempt, Sequence[int]], None],
        staging: Staging,
        clock: Clock,
        poller: Callable[[], Poller],
    ):
        self.progress = progress
        self.staging = staging
        self.poller = poller
        self._clock = clock
        self._links = links
        self._open_links = open_links
        self._on_stall = on_stall
        self.epoch = self.seq = self.fingerprint = self.rank = self.size = 0
        self.streams: list[Stream | None] = []  # by rank
        self.deadline = self._report_at = 0.0

    def begin(self, epoch: int, seq: int, fingerprint: int, rank: int, size: int, deadline: float) -> None:
        """``deadline``: a value of the clock."""
        if epoch != self.epoch:
            self.streams = [None] * size
        self.epoch = epoch
        self.seq = seq
        self.fingerprint = fingerprint
        self.rank = rank
        self.size = size
        self.deadline = deadline
        self._report_at = 0.0

    def link(self, rank: int) -> Link:
        return self._links(rank, self)

    def open(self, rank: int) -> Stream:
        """The first stream to a rank, kept in ``streams`` for the next time."""
        stream = self.streams[rank] = self._links(rank, self).streams[0]
        return stream

    def check(self) -> None:
        """Raise Halted when the group is changing its view."""
        progress = self.progress
        if progress.halted or progress.epoch != self.epoch or progress.failure is not None:
            raise Halted

    def moved(self) -> None:
        """Bytes have moved: whoever we wait for is not stuck."""
        self._report_at = 0.0

    def idle(self, ranks: Sequence[int]) -> None:
        """Nothing has come for a few milliseconds; ``ranks`` are those we wait for. Raises Halted or LinkBroken."""
        self.check()
        now = self._clock.monotonic()
        if self._report_at and now >= self._report_at:
            for link in self._open_links():  # also those that we have only sent on: their loss stalls others, then us
                _examine(link)
            self._on_stall(self, ranks)
        elif self._report_at:
            return
        self._report_at = now + STALL_SECONDS
        if now < self.deadline < self._report_at:
            self._report_at = self.deadline

    def judge(self, member: int, header: bytes | bytearray | memoryview) -> Header:
        """Look at a header that is not the expected one. Returns it when its frame is stale and to be skipped.

        Raises Mismatch when it belongs to this epoch. When it belongs to a later one, waits for the news (Halted).
        """
        try:
            found = unpack(header)
        except BadFrame as error:
            raise LinkBroken(member, "closed", str(error)) from None
        if found.epoch < self.epoch:
            return found
        if found.epoch == self.epoch:
            raise Mismatch
        with self.progress.changed:
            while True:
                self.check()
                self.progress.changed.wait(0.05)


def _examine(link: Link) -> None:
    for stream in link.streams:
        silent = stream.unacknowledged_for()
        if silent > PATH_DEAD_SECONDS:
            raise LinkBroken(link.member, "unacked", f"bytes sent to it have been unacknowledged for {silent:.1f} s")


class Staging:
    """Where small messages land, header and payload in one piece; one per communicator, reused."""

    def __init__(self, nbytes: int):
        self.array: np.ndarray[Any, np.dtype[np.uint8]] = np.empty(nbytes, np.uint8)
        self.view = memoryview(self.array.data)
