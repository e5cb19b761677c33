"""A link made of connections, whose streams are added, die and are replaced while it lives."""

from __future__ import annotations

import threading

from .base import LinkKey
from .frames import MAX_STREAMS
from .stream import SocketStream


class SocketLink:
    """The streams that join this peer with ``member`` for one communicator and purpose. ``age``: epoch and number of the way by
    which it was made; of two the later one counts, at both ends.

    ``streams`` is replaced as a whole, so that whoever runs an operation sees by a glance at it that something has changed.
    """

    def __init__(self, key: LinkKey, streams: list[SocketStream], age: tuple[int, int] = (0, 0)):
        self.age = age
        self.key = key
        self.member = key[2]
        self.streams: tuple[SocketStream, ...] = tuple(streams)
        self._closed = False
        self._gone = (0, 0)  # bytes of streams that have been replaced
        self._lock = threading.Lock()
        self._bound_queues()

    @property
    def living(self) -> int:
        return sum(not stream.retired for stream in self.streams)

    def vacancy(self) -> int:
        """The number that the next new stream will have: of one that is dead, or one more."""
        for index, stream in enumerate(self.streams):
            if stream.retired:
                return index
        return len(self.streams)

    def put(self, index: int, stream: SocketStream) -> bool:
        """Take in ``stream`` as number ``index``, in place of what has that number; behind all others if none has. False, and
        it is closed, when there is no room, or the link is closed."""
        with self._lock:
            streams = list(self.streams)
            if self._closed or (index >= len(streams) and len(streams) >= MAX_STREAMS):
                stream.close()
                return False
            if index < len(streams):
                old, streams[index] = streams[index], stream
                self._gone = (self._gone[0] + old.bytes_sent, self._gone[1] + old.bytes_received)
                if not old.retired:
                    old.retire()
            else:
                streams.append(stream)
            self.streams = tuple(streams)
            self._bound_queues()
            return True

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received."""
        with self._lock:
            sent, received = self._gone
            return (
                sent + sum(stream.bytes_sent for stream in self.streams),
                received + sum(stream.bytes_received for stream in self.streams),
            )

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for stream in self.streams:
                stream.close()

    def _bound_queues(self) -> None:
        if len(self.streams) > 1:
            for stream in self.streams:
                stream.bound_queue()
