"""A relay: joins two members that cannot dial each other, by forwarding bytes between the lines that both have dialled to it.

A member that wants another through us greets as ever, naming that other as ``onward``, and proves that it is a member of the
view; then it sends one byte, `READY`, past any TLS. When the two lines for one stream of one link are here, they are joined,
and what comes on one goes out on the other, unread: the ends greet each other, prove themselves and speak TLS (if they have
certificates) through it. So a relay needs no more trust than any other machine on the way.

One thread, which begins when the first line comes. Each direction holds one chunk at most, and reads no further until that is
taken, so a slow reader slows its writer and nobody else. When one end closes, what it has sent is delivered, and both are closed.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections.abc import Iterable

from .frames import Greeting

READY = b"\x01"
CHUNK_BYTES = 256 << 10  # as much as a socket's buffer gives at a time; two per pair
MOST_PAIRS = 1024
MOST_WAITING = 1024
MEETING_SECONDS = 5.0  # for the other line to come
LINGER_SECONDS = 10.0  # for the last bytes of who has closed
SWEEP_SECONDS = 0.5
HUNG_UP = getattr(select, "POLLRDHUP", 0)  # Linux; elsewhere noticed when it meets the other
BUSY_TURNS = 8  # chunks of one direction in a row, before the others have their turn

Key = tuple[int, ...]  # earlier member, later member, epoch, communicator, purpose, stream


class _Line:
    """One end. ``buffer[start:end]`` has come in here and not gone out at ``other`` yet."""

    def __init__(self, sock: socket.socket, member: int, key: Key, deadline: float):
        self.sock = sock
        self.member = member
        self.key = key
        self.deadline = deadline  # of its meeting; once it has closed, of the delivery of its last bytes
        self.ready = False
        self.other: _Line | None = None
        self.buffer = memoryview(b"")
        self.start = self.end = 0
        self.ended = False


class Relay:
    """``most_pairs``: more are turned away."""

    def __init__(self, most_pairs: int = MOST_PAIRS):
        self._most_pairs = most_pairs
        self._lock = threading.Lock()
        self._poller = select.poll()
        self._lines: dict[int, _Line] = {}  # by descriptor
        self._waiting: dict[tuple[Key, int], _Line] = {}  # ready, by key and member
        self._thread: threading.Thread | None = None
        self._arrived: list[_Line] = []
        self._keep: frozenset[int] | None = None
        self._closed = False
        self._wake_read = self._wake_write = -1  # until there is a thread to be woken
        self.pairs = 0
        self.bytes_forwarded = 0

    def take(self, greeting: Greeting, sock: socket.socket) -> None:
        """A line of ``greeting.caller``, which has proved to be that."""
        first, second = sorted((greeting.caller, greeting.onward))
        key = (first, second, greeting.epoch, greeting.gid, greeting.purpose, greeting.stream)
        line = _Line(sock, greeting.caller, key, time.monotonic() + MEETING_SECONDS)
        with self._lock:
            if self._closed or len(self._lines) + len(self._arrived) >= 2 * self._most_pairs + MOST_WAITING:
                sock.close()
                return
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # hosts that vanish leave lines behind
            self._arrived.append(line)
            if self._thread is None:
                self._wake_read, self._wake_write = os.pipe()
                self._thread = threading.Thread(target=self._serve, name="collcomm-relay", daemon=True)
                self._thread.start()
            os.write(self._wake_write, b"x")

    def keep_only(self, members: Iterable[int]) -> None:
        """Close the lines of all others: they have left."""
        with self._lock:
            self._keep = frozenset(members)
            if self._thread is not None and not self._closed:
                os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Close all lines. Harmless when done twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self._thread is None:
            return
        os.write(self._wake_write, b"x")
        self._thread.join()
        for line in self._arrived:
            line.sock.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self._poller.register(self._wake_read, select.POLLIN)
        swept = time.monotonic()
        while not self._closed:
            for descriptor, events in self._poller.poll(SWEEP_SECONDS * 1e3 if self._lines else None):
                if descriptor == self._wake_read:
                    os.read(self._wake_read, 4096)
                    self._look()
                elif descriptor in self._lines:  # else closed in this very turn
                    self._attend(self._lines[descriptor], events)
            now = time.monotonic()
            if now - swept >= SWEEP_SECONDS:
                swept = now
                for line in [line for line in self._lines.values() if line.deadline < now]:
                    self._end(line)
        for line in list(self._lines.values()):
            self._end(line)

    def _look(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
            keep, self._keep = self._keep, None
        for line in arrived:
            self._lines[line.sock.fileno()] = line
            self._poller.register(line.sock, select.POLLIN)
        if keep is not None:
            for line in [line for line in self._lines.values() if not keep >= set(line.key[:2])]:
                self._end(line)

    def _attend(self, line: _Line, events: int) -> None:
        if line.other is None:
            if not line.ready:
                self._hear(line)
            else:
                self._end(line)  # it has hung up: nothing else is listened for
            return
        if events & (select.POLLOUT | select.POLLERR | select.POLLHUP):
            self._forward(line.other)
        if line.other is not None and events & (select.POLLIN | select.POLLERR | select.POLLHUP):
            self._forward(line)

    def _hear(self, line: _Line) -> None:
        """The byte after its greeting; then it waits for the other line, and what it sends waits in the kernel."""
        try:
            said = line.sock.recv(1)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if said != READY or self.pairs >= self._most_pairs:
            self._end(line)
            return
        line.ready = True
        before = self._waiting.pop((line.key, line.member), None)
        if before is not None:
            self._end(before)
        other = self._waiting.pop((line.key, sum(line.key[:2]) - line.member), None)
        if other is None:
            self._waiting[line.key, line.member] = line
            self._poller.modify(line.sock, HUNG_UP)
            return
        self.pairs += 1
        line.other, other.other = other, line
        for end in (line, other):
            end.deadline = float("inf")
            end.buffer = memoryview(bytearray(CHUNK_BYTES))
        for end in (line, other):
            self._want(end)

    def _forward(self, line: _Line) -> None:
        """What has come in at ``line`` goes out at its other end, as far as it is taken."""
        other = line.other
        assert other is not None
        try:
            for _ in range(BUSY_TURNS):
                if line.start == line.end and (line.ended or not self._fill(line)):
                    break
                sent = other.sock.send(line.buffer[line.start : line.end], socket.MSG_NOSIGNAL)
                line.start += sent
                self.bytes_forwarded += sent
        except BlockingIOError:
            pass
        except OSError:
            self._end(line)
            return
        if line.ended and line.start == line.end:
            self._end(line)
            return
        self._want(line)
        self._want(other)

    def _fill(self, line: _Line) -> bool:
        """Raises BlockingIOError when there is nothing."""
        try:
            count = line.sock.recv_into(line.buffer)
        except BlockingIOError:
            raise
        except OSError:
            count = 0  # reset: there is nothing more of it
        line.start, line.end = 0, count
        if not count:
            line.ended = True
            self._poller.unregister(line.sock)  # else poll() says so again and again
            line.deadline = time.monotonic() + LINGER_SECONDS
        return count > 0

    def _want(self, line: _Line) -> None:
        other = line.other
        assert other is not None
        if line.ended:
            return
        events = 0
        if line.start == line.end:
            events |= select.POLLIN
        if other.start < other.end:
            events |= select.POLLOUT
        self._poller.modify(line.sock, events)

    def _end(self, line: _Line) -> None:
        """Close it, and the one that it is joined with."""
        for end in (line, line.other):
            if end is None or self._lines.pop(end.sock.fileno(), None) is None:
                continue
            if self._waiting.get((end.key, end.member)) is end:
                del self._waiting[end.key, end.member]
            if not end.ended:
                self._poller.unregister(end.sock)
            with contextlib.suppress(OSError):
                end.sock.shutdown(socket.SHUT_RDWR)
            end.sock.close()
        if line.other is not None:
            self.pairs -= 1
            line.other.other = None
            line.other = None
