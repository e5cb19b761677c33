"""One attempt at one operation in one view: what the executors share, and what they raise when it cannot go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..clock import Clock
from ..transports.base import Link, LinkBroken, Poller, Stream
from ..transports.frames import BadFrame, Header, Kind, unpack
from .marks import Marks, Recorder
from .progress import Halted, Progress

if TYPE_CHECKING:
    from .flows import Flows

LOOK_SECONDS = 0.001  # between two looks at a link's other streams
STALL_SECONDS = 0.5  # without a byte in either direction, tell the coordinator (again)
PATH_DEAD_SECONDS = 1.5  # the other kernel owes us an acknowledgement for that long: the path is gone


class Mismatch(Exception):
    """A peer's frame belongs to another call than ours."""


class Attempt:
    """``links(rank)`` gives the link to a rank, ``open_links()`` all there are; ``on_stall(attempt, ranks)`` tells that
    nothing has come from ``ranks``; ``poller()`` makes something to wait with for several streams. ``marks``: where it is noted
    when what happened; ``recorder``: hears of what was moved.

    One object serves a communicator's attempts one after the other; `begin` sets it to the next.
    """

    __slots__ = (
        "_clock",
        "_links",
        "_on_stall",
        "_open_links",
        "_report_at",
        "deadline",
        "early",
        "epoch",
        "fingerprint",
        "flows",
        "marks",
        "now",
        "partners",
        "poller",
        "progress",
        "rank",
        "recorder",
        "said",
        "seq",
        "size",
        "staging",
        "streams",
        "striped",
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
        marks: Marks | None = None,
        recorder: Recorder | None = None,
    ):
        self.marks = Marks() if marks is None else marks
        self.recorder = recorder
        self.progress = progress
        self.staging = staging
        self.poller = poller
        self._clock = clock
        self.now = clock.monotonic
        self._links = links
        self._open_links = open_links
        self._on_stall = on_stall
        self.epoch = self.seq = self.fingerprint = self.rank = self.size = 0
        self.streams: list[Stream | None] = []  # by rank
        self.partners: tuple[int, ...] = ()  # ranks that this one tells, or hears of, in a commit round
        self.striped = False  # links have several streams: small messages, too, may have to go again
        self.flows: Flows | None = (
            None  # of the data phase, as long as what they sent over several streams may have to go again
        )
        self.early: dict[int, bytes] = {}  # by rank: frames of the commit round that came before they were waited for
        self.said: dict[int, bytes] = {}  # by rank: the last such frame that was sent over one of several streams
        self.deadline = self._report_at = 0.0

    def begin(self, epoch: int, seq: int, fingerprint: int, rank: int, size: int, deadline: float) -> None:
        """``deadline``: a value of the clock."""
        if epoch != self.epoch:
            self.streams = [None] * size
            self.partners = partners_of(rank, size)
            self.said.clear()
        if self.early:
            self.early.clear()
        if self.flows is not None:
            self.leave()
        self.epoch = epoch
        self.seq = seq
        self.fingerprint = fingerprint
        self.rank = rank
        self.size = size
        self.deadline = deadline
        self._report_at = 0.0
        self.marks.begin(epoch)

    def leave(self) -> None:
        """What was sent over several streams is settled."""
        if self.flows is not None:
            self.flows.abandon()
            self.flows = None

    def link(self, rank: int) -> Link:
        return self._links(rank, self)

    def open(self, rank: int) -> Stream:
        """The first living stream to a rank, kept in ``streams`` for the next time."""
        link = self._links(rank, self)
        for stream in link.streams:
            if not stream.retired:
                self.streams[rank] = stream
                return stream
        raise LinkBroken(link.member, "closed", "all its connections have died")

    def elsewhere(self, rank: int, stream: Stream, expected: bytes) -> Stream | None:
        """Another stream to ``rank`` on which the frame with that header has come (its payload follows): the two ends may be of
        different minds for a while about which is the first living one. Raises LinkBroken."""
        link = self._links(rank, self)
        header = memoryview(bytearray(len(expected)))
        for other in link.streams:
            if other is stream or other.retired:
                continue
            try:
                got = other.try_receive(header)
                while got == len(expected):
                    if header == expected:
                        self.streams[rank] = other
                        return other
                    stale = self.stale(link.member, header)
                    if stale is None:
                        break
                    other.skip(stale.length)
                    got = other.try_receive(header)
                other.unread(header[:got])
            except LinkBroken:
                if other.retired or self.streams[rank] is None:
                    raise
                self.retire(other)
        return None

    def is_ours(self, rank: int, header: bytes | bytearray | memoryview) -> bool:
        """Whether the frame belongs to this operation and may be early: the link has further streams, on which others come."""
        if sum(not stream.retired for stream in self._links(rank, self).streams) < 2:
            return False
        try:
            found = unpack(header)
        except BadFrame:
            return False
        return (found.epoch, found.seq, found.fingerprint) == (self.epoch, self.seq, self.fingerprint)

    def await_elsewhere(self, rank: int, stream: Stream, expected: bytes) -> Stream:
        """As `elsewhere`, when it has come. Raises Halted, LinkBroken."""
        while (other := self.elsewhere(rank, stream, expected)) is None:
            self.idle((rank,))
            with self.progress.changed:
                self.progress.changed.wait(LOOK_SECONDS)
        return other

    def retire(self, stream: Stream) -> None:
        """It is used no more; its link is."""
        stream.retire()
        self.streams = [None if one is stream else one for one in self.streams]

    def check(self) -> None:
        """Raise Halted when the group is changing its view."""
        progress = self.progress
        if progress.halted or progress.epoch != self.epoch or progress.failure is not None:
            raise Halted

    def moved(self) -> None:
        """Bytes have moved: whoever we wait for is not stuck."""
        self._report_at = 0.0
        marks = self.marks
        if marks.idle_since:
            marks.moved = self._clock.monotonic()
            marks.waited += marks.moved - marks.idle_since
            marks.idle_since = 0.0

    def idle(self, ranks: Sequence[int]) -> None:
        """Nothing has come for a few milliseconds; ``ranks`` are those we wait for. Raises Halted or LinkBroken."""
        self.check()
        now = self._clock.monotonic()
        if not self.marks.idle_since:
            self.marks.idle_since = now
            self.marks.waiting_on = tuple(ranks)
        if self._report_at and now >= self._report_at:
            for link in self._open_links():  # also those that we have only sent on: their loss stalls others, then us
                self._examine(link)
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
        found = self.stale(member, header)
        if found is not None:
            return found
        if unpack(header).epoch == self.epoch:
            raise Mismatch
        with self.progress.changed:
            while True:
                self.check()
                self.progress.changed.wait(0.05)

    def stale(self, member: int, header: bytes | bytearray | memoryview) -> Header | None:
        """The header, if its frame is to be skipped: it is of an older epoch, or came a second time since a stream died, or
        speaks of a stream. Raises LinkBroken."""
        try:
            found = unpack(header)
        except BadFrame as error:
            raise LinkBroken(member, "closed", str(error)) from None
        if found.kind == Kind.GONE:
            self._give_up(member, found.message)
        if found.kind in (Kind.GOT, Kind.GONE) or found.epoch < self.epoch:
            return found
        if found.epoch == self.epoch and (self.seq - found.seq > 0 or (found.seq == self.seq and self._has_all(found))):
            return found  # nobody is behind who had not sent it before
        return None

    def _has_all(self, found: Header) -> bool:
        return self.flows is not None and self.flows.complete and found.fingerprint == self.fingerprint

    def _give_up(self, member: int, serial: int) -> None:
        """The other end uses a stream no more."""
        for link in self._open_links():
            for stream in link.streams:
                if link.member == member and stream.serial == serial and not stream.retired:
                    if self.flows is not None and self.flows.give_up(stream):
                        return
                    in_use = stream in self.streams
                    self.retire(stream)
                    if in_use:
                        raise LinkBroken(member, "closed", "it has given up a connection that was in use")

    def _examine(self, link: Link) -> None:
        for stream in link.streams:
            if stream.retired:
                continue
            silent = stream.unacknowledged_for()
            if silent <= PATH_DEAD_SECONDS:
                continue
            if self.flows is not None and self.flows.examine(link):
                return
            if len(link.streams) == 1 or stream in self.streams:
                raise unacknowledged(link.member, silent)
            self.retire(stream)


def unacknowledged(member: int, silent: float) -> LinkBroken:
    """Nothing has come back from ``member`` for ``silent`` seconds."""
    return LinkBroken(member, "unacked", f"bytes sent to it have been unacknowledged for {silent:.1f} s")


def partners_of(rank: int, size: int) -> tuple[int, ...]:
    """The ranks that ``rank`` tells, or hears of, in a commit round of ``size`` ranks."""
    found, distance = set(), 1
    while distance < size:
        found |= {(rank + distance) % size, (rank - distance) % size}
        distance *= 2
    return tuple(sorted(found))


class Staging:
    """Where small messages land, header and payload in one piece; one per communicator, reused."""

    def __init__(self, nbytes: int):
        self.array: np.ndarray[Any, np.dtype[np.uint8]] = np.empty(nbytes, np.uint8)
        self.view = memoryview(self.array.data)
