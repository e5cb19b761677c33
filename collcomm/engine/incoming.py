"""What comes from one peer: frames in any order on any of its streams, each where it belongs as it arrives.

The next frame is foreseen, so that its header need only be compared. What is not foreseen is looked up by the message's number
and the offset. A frame that came already, and comes again since a stream died in between, is passed over.
"""

from __future__ import annotations

import numpy as np

from ..collectives import Action
from ..transports.base import LinkBroken, Stream
from ..transports.frames import HEADER_BYTES, BadFrame, Header, Kind, unpack
from .attempt import Mismatch
from .cutting import Frame
from .work import Bytes, Work

TAKEN_BYTES = 1 << 18  # after so many, the other end is told
MOST_PARKED = 1 << 26  # bytes in memory of their own, per peer


class Incoming:
    """``left``: frames that are not done; ``parked``: whole frames in memory of their own, which wait for their turn;
    ``several``: the link has, or had, several streams; ``words``: what was heard of streams, to be worked off by the flow."""

    def __init__(self, work: Work, peer: int, frames: list[Frame]):
        self.work = work
        self.peer = peer
        self.frames = frames
        self.left = len(frames)
        self.several = False
        self.receivers: list[Receiver] = []
        self.parked: list[tuple[Frame, Bytes]] = []
        self.words: list[Header] = []
        self.next = 0  # the first that has not begun
        self._begun = bytearray(len(frames))
        self._positions: dict[tuple[int, int], int] | None = None
        reduced = [frame.nbytes for frame in frames if frame.action is Action.RECV_REDUCE]
        self.bounce_bytes = max(reduced, default=0)

    def position(self, found: Header) -> int:
        """Which frame that is. Raises Mismatch."""
        if self._positions is None:
            self._positions = {(frame.ordinal, frame.offset): at for at, frame in enumerate(self.frames)}
        at = self._positions.get((found.message, found.offset))
        if at is None or self.frames[at].nbytes != found.length:
            raise Mismatch
        return at

    def begin(self, position: int) -> None:
        begun = self._begun
        begun[position] = 1
        while self.next < len(begun) and begun[self.next]:
            self.next += 1

    def begun(self, position: int) -> bool:
        return bool(self._begun[position])

    def forget(self, position: int) -> None:
        """What had come of it is lost."""
        self._begun[position] = 0
        self.next = min(self.next, position)

    def park(self, frame: Frame, data: Bytes) -> None:
        self.parked.append((frame, data))

    @property
    def may_park(self) -> bool:
        return self.several and sum(frame.nbytes for frame, _ in self.parked) < MOST_PARKED

    def finish_parked(self) -> bool:
        """True when one was done."""
        work, later = self.work, []
        for frame, data in self.parked:
            if not work.ready(frame):
                later.append((frame, data))
                continue
            if frame.action is Action.RECV_REDUCE:
                work.reduce(frame, data)
            else:
                work.target(frame)[:] = data
            work.end(frame)
            self.left -= 1
        moved = len(later) < len(self.parked)
        self.parked = later
        return moved


class Receiver:
    """One stream. ``count``: frames of this operation taken from it whole, of ``nbytes``; ``first_at``, ``heard_at``: when
    anything came first and last."""

    def __init__(self, incoming: Incoming, stream: Stream):
        self.incoming = incoming
        self.peer = incoming.peer
        self.stream = stream
        self.count = 0
        self.untold = 0  # bytes taken that the other end was not told of
        self.nbytes = 0
        self.first_at = self.heard_at = 0.0
        self.frame: Frame | None = None  # whose header has come
        self.position = -1
        self._work = incoming.work
        self._header = memoryview(bytearray(HEADER_BYTES))
        self._got = 0
        self._target: Bytes | None = None
        self._parks = False  # the target is memory of its own
        self._bounce = np.empty(incoming.bounce_bytes, np.uint8)
        incoming.receivers.append(self)

    @property
    def ready(self) -> bool:
        """Whether `pump` may be called; until then, what has come stays where it is.

        A frame that is to be reduced is taken into the bounce buffer in any case, and waits there: so two ranks that send
        each other what they are about to overwrite need no room for it between them.
        """
        frame = self.frame
        if frame is None:
            return True
        if frame.action is Action.RECV_REDUCE:
            return not self.has_whole_frame or self._work.ready(frame)
        return self._target is not None or self._work.ready(frame)

    @property
    def has_whole_frame(self) -> bool:
        return self.frame is not None and self._got == HEADER_BYTES + self.frame.nbytes

    def pump(self) -> bool:
        """Take what is there, at most one frame. True when something came."""
        if self.frame is None:
            count = self.stream.try_receive(self._header[self._got :])
            self._got += count
            if self._got < HEADER_BYTES:
                return count > 0
            self._identify()
        frame, work, target = self.frame, self._work, self._target
        if frame is None:
            return True
        if target is None:
            if frame.action is Action.RECV_REDUCE:
                target = self._bounce[: frame.nbytes]
            elif work.ready(frame):
                target = work.target(frame)
            else:
                return True
            self._target = target
        position = self._got - HEADER_BYTES
        if position < frame.nbytes:
            count = self.stream.try_receive(target.data[position:])
            self._got += count
            if position + count < frame.nbytes:
                return count > 0
        if self._parks:
            self._park(frame, target)
            return True
        if frame.action is Action.RECV_REDUCE:
            if not work.ready(frame):
                return True
            work.reduce(frame, target)
        work.end(frame)
        self.incoming.left -= 1
        self._reset(frame)
        return True

    def _reset(self, frame: Frame) -> None:
        """The frame is off the stream."""
        self.count += 1
        self.nbytes += frame.nbytes
        self.untold += frame.nbytes
        self.frame = self._target = None
        self._got = 0
        self._parks = False

    def _identify(self) -> None:
        """A header has come: of a frame, which then is ``frame``, or of what is passed over."""
        incoming, work = self.incoming, self._work
        if incoming.next < len(incoming.frames):
            frame = incoming.frames[incoming.next]
            if self._header == work.header(frame):
                self._begin(incoming.next)
                return
        position = self._overheard()
        if position is None:
            self._got = 0
        elif position < 0:
            stale = work.attempt.judge(self.stream.member, self._header)
            self._got = 0
            self.stream.skip(stale.length)
        else:
            self._begin(position)

    def _overheard(self) -> int | None:
        """Work off a header that was not foreseen: None when that is done, the position of the frame that follows, or -1 when it
        is nothing of this operation. The other end may know of streams that this one has not seen yet. Raises Mismatch,
        LinkBroken."""
        incoming, attempt = self.incoming, self._work.attempt
        try:
            found = unpack(self._header)
        except BadFrame as error:
            raise LinkBroken(self.stream.member, "closed", str(error)) from None
        if found.kind in (Kind.GOT, Kind.GONE):
            incoming.words.append(found)
            return None
        if (found.epoch, found.seq, found.fingerprint) != (attempt.epoch, attempt.seq, attempt.fingerprint):
            return -1
        if found.kind == Kind.DONE:
            attempt.early[self.peer] = bytes(self._header)
            return None
        position = incoming.position(found)
        if not incoming.begun(position):
            return position
        frame = incoming.frames[position]
        holder = next((one for one in incoming.receivers if one.frame is frame), None)
        if holder is not None and not holder.has_whole_frame:
            holder.divert()  # on a path that its sender has given up; this one has it whole
            return position
        self.stream.skip(found.length)
        self.count += 1
        return None

    def _begin(self, position: int) -> None:
        self.position = position
        self.frame = self.incoming.frames[position]
        self.incoming.begin(position)

    def divert(self) -> None:
        """The frame comes on another stream, too: what is still to come of it here must not touch its memory any more."""
        frame = self.frame
        assert frame is not None
        self.stream.skip(HEADER_BYTES + frame.nbytes - self._got)
        self._reset(frame)

    def park(self) -> bool:
        """Take the frame that waits for its turn out of the way, into memory of its own. False when there is none."""
        frame = self.frame
        if frame is None or self._work.ready(frame):
            return False
        if frame.action is Action.RECV_REDUCE:
            if not self.has_whole_frame:
                return False
            bounce, self._bounce = self._bounce, np.empty(self._bounce.size, np.uint8)
            self._park(frame, bounce[: frame.nbytes])
        else:
            if self._target is not None:
                return False
            self._target = np.empty(frame.nbytes, np.uint8)
            self._parks = True
        return True

    def _park(self, frame: Frame, data: Bytes) -> None:
        self.incoming.park(frame, data)
        self._reset(frame)

    def overhear(self) -> bool:
        """In the commit round, when all frames are there: work off what comes between and behind them, up to what belongs to the
        next operation. False when that has come."""
        while True:
            self._got += self.stream.try_receive(self._header[self._got :])
            if self._got < HEADER_BYTES:
                return True
            if self._overheard() == -1:
                stale = self._work.attempt.stale(self.stream.member, self._header)
                if stale is None:
                    return False  # `abandon` puts it back
                self.stream.skip(stale.length)
            self._got = 0

    @property
    def is_ahead(self) -> bool:
        """The header that has come is of a later operation in this epoch."""
        attempt, found = self._work.attempt, unpack(self._header)
        return found.epoch == attempt.epoch and found.seq > attempt.seq

    def drop(self) -> None:
        """The stream is dead."""
        self.incoming.receivers.remove(self)
        if self.frame is not None:
            self.incoming.forget(self.position)
            self.frame = None

    def abandon(self) -> None:
        frame = self.frame
        if self._target is None or frame is None:
            self.stream.unread(self._header[: self._got])
        else:
            self.stream.skip(HEADER_BYTES + frame.nbytes - self._got)
        self.frame = self._target = None
        self._got = 0
