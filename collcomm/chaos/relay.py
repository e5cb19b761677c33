"""Carries the connections of peers, so that they can be held, slowed down and spoiled without root.

Each peer has a port here for its data connections, which it advertises, and one for its line to the coordinator. A data
connection touches two peers: the owner of the port, and the caller, whom its greeting names. Bytes that are held stay
here; a full relay stops reading, so senders notice what they would notice of a path that carries nothing, except that
their kernel's bytes are acknowledged.
"""

from __future__ import annotations

import errno
import heapq
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count

from ..transports.frames import GREETING_BYTES, BadFrame, Greeting
from .corruption import FrameSpoiler

READ_BYTES = 1 << 18
QUEUE_BYTES = 1 << 20  # held per direction, before reading stops
POLL_SECONDS = 1.0
CLOSE_SECONDS = 5.0
HOST = "127.0.0.1"
_RESET = struct.pack("ii", 1, 0)  # closing sends RST


class Flow:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, target: socket.socket, data: bool):
        self.source = source
        self.target = target
        self.queue: deque[tuple[float, memoryview]] = deque()  # with when it may go
        self.queued = 0
        self.free_at = 0.0  # a slow link is busy until then
        self.blocked = False  # the target takes no more at present
        self.ended = False  # the source has closed
        self.done = False  # ... and the target knows
        self.alarm = 0.0  # when to look at the queue again
        self.spoiler = FrameSpoiler() if data else None


class Connection:
    """``owner``: the peer whose port was called; ``caller``: the member that called, once it has said so."""

    def __init__(self, near: socket.socket, far: socket.socket, owner: str, data: bool):
        self.owner = owner
        self.data = data
        self.caller: int | None = None
        self.greeting = bytearray()
        self.flows = (Flow(near, far, data), Flow(far, near, data))
        self.held = False
        self.delay = self.rate = 0.0
        self.masks: dict[int, int] = {}
        self.closed = False


class Relay:
    """Runs on a thread of its own until `close`. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._listeners: dict[int, tuple[socket.socket, str, tuple[str, int], bool]] = {}
        self._ends: dict[int, Connection] = {}
        self._timers: list[tuple[float, int, Connection, Flow]] = []
        self._numbers = count()
        self._members: dict[int, str] = {}
        self._held: dict[str, bool] = {}  # peer -> whether its line to the coordinator is, too
        self._slow: dict[str, tuple[float, float]] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="collcomm-relay", daemon=True)
        self._thread.start()

    def open(self, owner: str, target: tuple[str, int], data: bool) -> int:
        """A new port of ``owner`` that leads to ``target``. ``data``: what passes there are data connections."""
        listener = socket.create_server((HOST, 0), backlog=256)
        listener.setblocking(False)
        with self._lock:
            self._listeners[listener.fileno()] = (listener, owner, target, data)
            self._epoll.register(listener, select.EPOLLIN)
        port: int = listener.getsockname()[1]
        return port

    def remove(self, owner: str) -> None:
        """The peer is gone: its ports refuse, its connections close."""
        with self._lock:
            for number, (listener, name, _, _) in list(self._listeners.items()):
                if name == owner:
                    self._epoll.unregister(listener)
                    listener.close()
                    del self._listeners[number]
            self._held.pop(owner, None)
            self._slow.pop(owner, None)
            for connection in list(self._connections()):
                if self._touches(connection, owner):
                    self._abort(connection)

    def introduce(self, member: int, peer: str) -> None:
        """Greetings call ``peer`` so."""
        with self._lock:
            self._members[member] = peer
            self._review()

    def hold(self, peer: str, control: bool) -> None:
        """Let nothing pass from and to ``peer``; ``control``: nor on its line to the coordinator."""
        with self._lock:
            self._held[peer] = control
            self._review()

    def slow_down(self, peer: str, delay: float, rate: float) -> None:
        """Delay all data of ``peer`` by ``delay`` seconds, and let ``rate`` bytes per second pass on each connection."""
        with self._lock:
            self._slow[peer] = (delay, rate)
            self._review()

    def heal(self, peer: str) -> None:
        """End `hold` and `slow_down`."""
        with self._lock:
            self._held.pop(peer, None)
            self._slow.pop(peer, None)
            self._review()

    def spoil(self, peer: str, position: int, done: Callable[[float], None]) -> None:
        """Change a byte of the next header that comes from ``peer``; ``done`` gets the time, on the relay's thread."""
        with self._lock:
            spoilers = [
                flow.spoiler
                for connection in self._connections()
                for flow, sender in zip(connection.flows, self._ends_of(connection), strict=True)
                if connection.data and sender == peer and flow.spoiler is not None
            ]

            def once() -> None:
                for spoiler in spoilers:
                    spoiler.disarm()
                done(time.monotonic())

            for spoiler in spoilers:
                spoiler.spoil_next(position, once)

    def close(self) -> None:
        with self._lock:
            self._wake()
            self._closing = True  # only now: the thread closes what wakes it
        self._thread.join(CLOSE_SECONDS)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- who ----------------------------------------------------------------------------------------------------------

    def _connections(self) -> Iterator[Connection]:
        return iter({id(connection): connection for connection in self._ends.values()}.values())

    def _ends_of(self, connection: Connection) -> tuple[str | None, str]:
        """The sender of each of the two flows."""
        if not connection.data:
            return connection.owner, connection.owner
        return self._members.get(-1 if connection.caller is None else connection.caller), connection.owner

    def _touches(self, connection: Connection, peer: str) -> bool:
        return peer in self._ends_of(connection)

    def _review(self) -> None:
        """What is held or slow may have changed."""
        for connection in list(self._connections()):
            self._judge(connection)
            for flow in connection.flows:
                self._pump(connection, flow)
        self._wake()

    def _judge(self, connection: Connection) -> None:
        ends = [end for end in self._ends_of(connection) if end is not None]
        connection.held = any(end in self._held and (connection.data or self._held[end]) for end in ends)
        slow = [self._slow[end] for end in ends if end in self._slow] if connection.data else []
        connection.delay = max((delay for delay, _ in slow), default=0.0)
        connection.rate = min((rate for _, rate in slow if rate), default=0.0)

    # -- the thread -----------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._closing:
            return
        try:
            os.write(self._wake_write, b"x")
        except BlockingIOError:
            pass  # it wakes anyway

    def _serve(self) -> None:
        while not self._closing:
            ready = self._epoll.poll(self._pause())
            with self._lock:
                for number, events in ready:
                    if number == self._wake_read:
                        os.read(number, 4096)
                    elif number in self._listeners:
                        self._accept(number)
                    elif number in self._ends:
                        self._ready(self._ends[number], number, events)
                self._ring()
        with self._lock:
            for connection in list(self._connections()):
                self._abort(connection)
            for listener, *_ in self._listeners.values():
                listener.close()
            self._epoll.close()
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _pause(self) -> float:
        with self._lock:
            return max(0.0, min(POLL_SECONDS, self._timers[0][0] - time.monotonic()) if self._timers else POLL_SECONDS)

    def _ring(self) -> None:
        """Send what a slow link has delayed until now."""
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, connection, flow = heapq.heappop(self._timers)
            flow.alarm = 0.0
            self._pump(connection, flow)

    def _accept(self, number: int) -> None:
        listener, owner, target, data = self._listeners[number]
        try:
            near, _ = listener.accept()
        except OSError:
            return
        far = socket.socket()
        far.setblocking(False)
        code = far.connect_ex(target)  # on the same machine: done or refused at once
        if code not in (0, errno.EINPROGRESS):
            _reset(near)
            far.close()
            return
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(near, far, owner, data)
        self._ends[near.fileno()] = self._ends[far.fileno()] = connection
        self._judge(connection)
        self._register(connection)

    def _ready(self, connection: Connection, number: int, events: int) -> None:
        for flow in connection.flows:
            if flow.target.fileno() == number and events & (select.EPOLLOUT | select.EPOLLERR):
                flow.blocked = False
                self._pump(connection, flow)
        for flow in connection.flows:
            if flow.source.fileno() == number and events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read(connection, flow)

    def _read(self, connection: Connection, flow: Flow) -> None:
        if connection.closed:
            return
        if flow.ended or connection.held or flow.queued >= QUEUE_BYTES:
            self._register(connection)
            return
        try:
            data = bytearray(flow.source.recv(READ_BYTES))
        except BlockingIOError:
            return
        except OSError:
            self._abort(connection)
            return
        if data:
            self._look_at(connection, flow, data)
            now = time.monotonic()
            if connection.rate:
                flow.free_at = max(now, flow.free_at) + len(data) / connection.rate
            due = max(now, flow.free_at) + connection.delay if connection.rate or connection.delay else now
            flow.queue.append((due, memoryview(data)))
            flow.queued += len(data)
        else:
            flow.ended = True
        self._pump(connection, flow)

    def _look_at(self, connection: Connection, flow: Flow, data: bytearray) -> None:
        if connection.data and flow is connection.flows[0] and len(connection.greeting) < GREETING_BYTES:
            connection.greeting += data[: GREETING_BYTES - len(connection.greeting)]
            if len(connection.greeting) == GREETING_BYTES:
                try:
                    connection.caller = Greeting.unpack(bytes(connection.greeting)).caller
                except BadFrame:
                    pass  # encrypted, or a stranger
                self._judge(connection)
        if flow.spoiler is not None:
            flow.spoiler.feed(data)

    def _pump(self, connection: Connection, flow: Flow) -> None:
        """Send what may go."""
        if connection.closed:
            return
        now = time.monotonic()
        while flow.queue and not connection.held and not flow.blocked:
            due, data = flow.queue[0]
            if due > now:
                if flow.alarm != due:
                    flow.alarm = due
                    heapq.heappush(self._timers, (due, next(self._numbers), connection, flow))
                break
            try:
                sent = flow.target.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                if error.errno == errno.ENOTCONN:
                    sent = 0  # still connecting
                else:
                    self._abort(connection)
                    return
            flow.queued -= sent
            if sent == len(data):
                flow.queue.popleft()
            else:
                flow.queue[0] = (due, data[sent:])
                flow.blocked = True
        if flow.ended and not flow.queue and not flow.done and not connection.held:
            flow.done = True
            try:
                flow.target.shutdown(socket.SHUT_WR)
            except OSError:
                self._abort(connection)
                return
            if all(each.done for each in connection.flows):
                self._abort(connection)
                return
        self._register(connection)

    def _register(self, connection: Connection) -> None:
        """Ask for those events that there is something to do about, and for none otherwise: epoll tells of hang-ups again
        and again."""
        forth, back = connection.flows
        for incoming, outgoing in ((forth, back), (back, forth)):
            number = incoming.source.fileno()
            reads = not incoming.ended and not connection.held and incoming.queued < QUEUE_BYTES
            mask = (select.EPOLLIN if reads else 0) | (select.EPOLLOUT if outgoing.blocked else 0)
            before = connection.masks.get(number, 0)
            if mask == before:
                continue
            connection.masks[number] = mask
            if not before:
                self._epoll.register(number, mask)
            elif mask:
                self._epoll.modify(number, mask)
            else:
                self._epoll.unregister(number)

    def _abort(self, connection: Connection) -> None:
        """Close both ends: at once where something had not arrived."""
        for number, mask in connection.masks.items():
            if mask:
                self._epoll.unregister(number)
        clean = all(flow.done for flow in connection.flows)
        for flow in connection.flows:
            self._ends.pop(flow.source.fileno(), None)
            if clean:
                flow.source.close()
            else:
                _reset(flow.source)
        connection.masks = {}
        connection.closed = True


def _reset(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except OSError:
        pass
    sock.close()
