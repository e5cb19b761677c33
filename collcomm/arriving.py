"""A message of `send` on its way in: frame by frame, and in step with its sender whatever interrupts it.

A message is frames of `FRAME_BYTES`, the last one shorter. Their headers hold its tag as ``seq``, its dtype as
``fingerprint``, its size as ``offset``, and their number as ``message``; so its first header tells all that is to come.
"""

from __future__ import annotations

from collections.abc import Callable

from .carriage import Carriage
from .errors import CollcommError
from .transports.base import LinkBroken, Stream
from .transports.frames import HEADER_BYTES, BadFrame, Header, Kind, pack, unpack

FRAME_BYTES = 1 << 20
SINK_BYTES = 1 << 18  # at a time, of what nobody wants

Check = Callable[[], None]  # called every few milliseconds of a wait, which it ends by raising


class Arriving:
    """The next message of ``stream``; waits for its first header. Raises LinkBroken, and what ``check`` raises."""

    def __init__(self, stream: Stream, check: Check):
        self.stream = stream
        self._first = first = _read_header(stream, check)
        self.tag, self.kind, self.size = first.seq, first.fingerprint, first.offset
        self._got = 0  # bytes of the message
        self._frames = 0  # of which the header has been read
        self._enter(first)

    def _enter(self, header: Header) -> None:
        length = min(FRAME_BYTES, self.size - self._got)
        if header != Header(Kind.DATA, 0, self.tag, self.kind, self.size, length, self._frames):
            raise LinkBroken(
                self.stream.member, "closed", f"frame {self._frames} of a message was expected, not {header}"
            )
        self._frames += 1

    def fill(self, target: Carriage, check: Check) -> None:
        """Read it into ``target``, of its size; once more after an interruption goes on where that was."""
        stream = self.stream
        short = False  # it comes more slowly than it is read
        while self._got < self.size:
            if self._got == self._frames * FRAME_BYTES:
                self._enter(_read_header(stream, check))
            room = target.incoming(self._got, min(self.size, self._frames * FRAME_BYTES) - self._got)
            if len(room) > 1:
                count = stream.receive_several(room)
            else:
                count = stream.receive_whole(room[0]) if short else stream.receive(room[0])
                short = count < len(room[0])
            if count:
                target.arrived(self._got, count)
                self._got += count
            else:
                check()

    def give_up(self) -> None:
        """Nobody wants the rest: it is passed over as it comes, before the next message."""
        self.stream.skip(self._rest())

    def discard(self, check: Check) -> None:
        """Take the rest off the connection, so that its sender need not wait; what ``check`` does not wait for, `give_up`."""
        left = self._rest()
        sink = memoryview(bytearray(min(SINK_BYTES, left)))
        try:
            while left:
                count = self.stream.receive(sink[:left])
                left -= count
                if not count:
                    check()
        except CollcommError:
            pass  # the caller has something more important to say
        finally:
            self.stream.skip(left)

    def put_back(self) -> None:
        """Leave it to a later receive, which finds it as if nobody had looked; before any of it was read."""
        self.stream.unread(pack(*self._first))

    def _rest(self) -> int:
        """Bytes still to come, headers included."""
        frames = max(1, -(-self.size // FRAME_BYTES))
        return self.size - self._got + (frames - self._frames) * HEADER_BYTES


def _read_header(stream: Stream, check: Check) -> Header:
    view, got = memoryview(bytearray(HEADER_BYTES)), 0
    try:
        while got < HEADER_BYTES:
            count = stream.receive(view[got:])
            got += count
            if not count:
                check()
        return unpack(view)
    except BadFrame as error:
        raise LinkBroken(stream.member, "closed", str(error)) from None
    except BaseException:
        stream.unread(view[:got])
        raise
