"""What goes to one peer: one queue of frames, and several streams that take from it as their sockets do.

A frame goes to whichever stream has room, so that each carries what its path carries. Near the end that is not enough: the last
frame on a slow path is waited for when all others are idle. So a stream takes a frame only if it is expected to have
delivered it before all that is left could have been delivered by all of them; the rates come from what the other end says it has
taken (weights after completion times, averaged, as in C4P, Dong et al. 2025).

What was handed over stays known until the other end has said that it took it. When a stream dies, what it had of this
operation goes to the front of the queue again.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from ..transports.base import Stream
from ..transports.frames import HEADER_BYTES
from .cutting import Frame
from .work import Work

RATE_SECONDS = 0.005  # over less than that, no rate is measured
RATE_MEMORY = 0.9  # the weight of what was known before
NOTHING = b""


class Outgoing:
    """``again``: frames that were lost, in order; they go first. ``several``: the link has, or had, several streams."""

    def __init__(self, work: Work, peer: int, frames: list[Frame]):
        self.work = work
        self.peer = peer
        self.frames = frames
        self.senders: list[Sender] = []
        self.several = False
        self.again: list[Frame] = []
        self._next = 0
        self._left = sum(frame.nbytes for frame in frames)  # neither handed over nor begun

    @property
    def empty(self) -> bool:
        return self._next == len(self.frames) and not self.again

    def peek(self, sender: Sender) -> Frame | None:
        """The next frame, if it may start, and on that stream."""
        if self.again:
            frame = self.again[0]
        elif self._next < len(self.frames):
            frame = self.frames[self._next]
            if not self.work.ready(frame):
                return None
        else:
            return None
        return frame if not self.several or self._is_due(sender, frame) else None

    def claim(self, frame: Frame) -> None:
        """A stream has taken the first bytes of it."""
        self._left -= frame.nbytes
        if self.again and self.again[0] is frame:
            del self.again[0]
        else:
            self._next += 1

    def payload(self, frame: Frame) -> Any:
        return self.work.again(frame) if self.again else self.work.source(frame)

    def lose(self, sender: Sender) -> None:
        """The stream of ``sender`` is dead."""
        self.senders.remove(sender)
        lost = sender.outstanding()
        self.again = sorted({frame.index: frame for frame in (*lost, *self.again)}.values(), key=lambda one: one.index)
        self._left += sum(frame.nbytes for frame in lost)

    def _is_due(self, sender: Sender, frame: Frame) -> bool:
        if len(self.senders) == 1:
            return True
        now = self.work.attempt.now()
        rates, left, soonest = 0.0, self._left, float("inf")
        for one in self.senders:
            if one.stream.rate <= 0.0:
                return True  # to get to know it
            rates += one.stream.rate
            left += one.in_flight
            soonest = min(soonest, one.seconds(frame.nbytes, now))
        return sender.seconds(frame.nbytes, now) <= max(soonest, left / rates)


class Sender:
    """One stream. ``words``: headers without payload that go between frames; ``count``: frames of this operation handed over, of
    ``nbytes``; ``first_at``, ``done_at``: when the first was given to the stream, and when it had taken the last."""

    def __init__(self, outgoing: Outgoing, stream: Stream):
        self.outgoing = outgoing
        self.peer = outgoing.peer
        self.stream = stream
        self.blocked = False
        self.words: list[bytes] = []
        self.count = 0
        self.nbytes = 0
        self.first_at = self.done_at = 0.0
        self.in_flight = 0  # bytes that the other end has not said to have taken
        self.busy_since = 0.0
        self.blind = False  # frames were handed over of which no record was kept
        self._flying: deque[tuple[int, Frame]] = deque()
        self._measured_at = 0.0
        self._measured = 0
        self._frame: Frame | None = None
        self._header = NOTHING
        self._payload: Any = NOTHING
        self._sent = 0  # of the frame or word in hand
        outgoing.senders.append(self)

    @property
    def finished(self) -> bool:
        return not self._sent and not self.words and self.outgoing.empty

    def pump(self) -> None:
        """Send until there is nothing that may start (the caller tries again) or the socket is full (``blocked``)."""
        outgoing, stream = self.outgoing, self.stream
        while True:
            sent = self._sent
            if not sent:
                if self.words:
                    self._frame, self._header, self._payload = None, self.words[0], NOTHING
                else:
                    frame = outgoing.peek(self)
                    if frame is None:
                        return
                    self._frame, self._header, self._payload = (
                        frame,
                        outgoing.work.header(frame),
                        outgoing.payload(frame),
                    )
                    if not self.first_at:
                        self.first_at = outgoing.work.attempt.now()
                taken = stream.try_send(self._header, self._payload)
                if taken and self._frame is not None:
                    outgoing.claim(self._frame)
                    if outgoing.several and not self.in_flight:
                        self.busy_since = self._measured_at = outgoing.work.attempt.now()
                        self._measured = 0
            elif sent < HEADER_BYTES:
                taken = stream.try_send(self._header[sent:], self._payload)
            else:
                taken = stream.try_send(NOTHING, self._payload[sent - HEADER_BYTES :])
            sent += taken
            if sent < HEADER_BYTES + len(self._payload):
                self._sent = sent
                self.blocked = True
                return
            self._sent = 0
            if self._frame is None:
                del self.words[0]
            else:
                self._end(self._frame)

    def _end(self, frame: Frame) -> None:
        work = self.outgoing.work
        self.count += 1
        self.nbytes += frame.nbytes
        self.done_at = work.attempt.now()
        if self.outgoing.several:
            self._flying.append((self.count, frame))
            self.in_flight += frame.nbytes
            work.flying[frame.index] = frame
        else:
            self.blind = True
        work.end(frame)

    def taken(self, count: int) -> None:
        """The other end has taken ``count`` frames of this operation from the stream."""
        flying, before = self._flying, self.in_flight
        while flying and flying[0][0] <= count:
            frame = flying.popleft()[1]
            self.in_flight -= frame.nbytes
            self.outgoing.work.landed(frame)
        if count >= self.count:
            self.blind = False
        now = self.outgoing.work.attempt.now()
        self._measured += before - self.in_flight
        if self._measured and now - self._measured_at >= RATE_SECONDS:
            rate = self._measured / (now - self._measured_at)
            known = self.stream.rate
            self.stream.rate = RATE_MEMORY * known + (1 - RATE_MEMORY) * rate if known else rate
            self._measured_at, self._measured = now, 0
        self.busy_since = now

    def seconds(self, nbytes: int, now: float) -> float:
        """Until it is expected to have delivered so much more; no less than it has been silent for."""
        silent = now - self.busy_since if self.in_flight else 0.0
        return max(silent, (self.in_flight + nbytes) / self.stream.rate)

    def outstanding(self) -> list[Frame]:
        """What the other end has not said to have taken, the frame in hand included."""
        frames = [frame for _, frame in self._flying]
        return [*frames, self._frame] if self._sent and self._frame is not None else frames

    @property
    def waits_for_answer(self) -> bool:
        return bool(self.in_flight or self._sent)

    def abandon(self) -> None:
        if self._sent:
            self.stream.owe(HEADER_BYTES + len(self._payload) - self._sent)
            self._sent = 0
