"""A peer's connections to its coordinators: ZeroMQ DEALER sockets, and the pulse echo."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from ..errors import CollcommError
from ..transports.addresses import format_address, parse_addresses
from .credentials import PeerCredentials
from .linewatch import LineWatch
from .messages import MAX_VIEW_BYTES, BadMessage, Message, decode, encode
from .peer import HERE_SECONDS
from .server import CLOSE_SECONDS, CONTROL_PREFIX, LINGER_MILLISECONDS, PULSE, PULSE_PREFIX

log = logging.getLogger("collcomm")


class ZmqLines:
    """Lines to ``where``: "host:port", or several with commas between."""

    def __init__(self, where: str, credentials: PeerCredentials | None = None):
        self.where = where
        self._credentials = credentials
        self._lines = [Line(format_address(*address), credentials) for address in parse_addresses(where)]
        self.count = len(self._lines)
        self._identity = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._closing = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._context: zmq.Context[Any] | None = None
        self._pulse_context: zmq.Context[Any] | None = None
        self._poller = zmq.Poller()
        self._threads: list[threading.Thread] = []

    def start(
        self,
        turn: Callable[[], None],
        hear: Callable[[int, Message], None],
        refused: Callable[[CollcommError], None],
    ) -> None:
        self._context, self._pulse_context = zmq.Context(), zmq.Context()
        self._threads = [
            threading.Thread(target=self._serve, args=(turn, hear, refused), name="collcomm-agent", daemon=True),
            *(
                threading.Thread(target=self._echo, args=(line.address,), name="collcomm-pulse", daemon=True)
                for line in self._lines
            ),
        ]
        for thread in self._threads:
            thread.start()

    def post(self, line: int, message: Mapping[str, Any]) -> None:
        self._lines[line].post(message)

    def wake(self) -> None:
        with self._lock:
            if not self._closing:  # after that the number may be somebody else's
                with contextlib.suppress(BlockingIOError):  # full of wake-ups: one more makes no difference
                    os.write(self._wake_write, b"x")

    def in_words(self) -> str:
        if len(self._lines) == 1:
            return self._lines[0].watch.met
        return "; ".join(f"{line.address}: {line.watch.met}" for line in self._lines)

    def close(self) -> None:
        """End both threads and connections. Bounded, and harmless when done twice."""
        with self._lock:
            if self._closing:
                return
            self._closing = True  # first: who is woken looks at it
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"x")
        closer = threading.current_thread()
        if self._pulse_context is not None:
            self._pulse_context.term()
        for thread in self._threads:
            if thread is not closer:
                thread.join(CLOSE_SECONDS)
        if self._context is not None and closer not in self._threads:
            self._context.term()
        os.close(self._wake_read)
        os.close(self._wake_write)

    # -- the threads -------------------------------------------------------------------------------------------------

    def _serve(
        self,
        turn: Callable[[], None],
        hear: Callable[[int, Message], None],
        refused: Callable[[CollcommError], None],
    ) -> None:
        assert self._context is not None
        for line in self._lines:
            line.open(self._context, CONTROL_PREFIX + self._identity, self._poller)
        self._poller.register(self._wake_read, zmq.POLLIN)
        try:
            while not self._closing:
                turn()
                ready = dict(self._poller.poll(int(HERE_SECONDS * 1e3)))
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
                    turn()
                for number, line in enumerate(self._lines):
                    if line.dealer in ready:
                        self._read(number, line, hear)
                    if line.monitor in ready:
                        self._watch(line, refused)
        finally:
            for line in self._lines:
                line.close()

    def _watch(self, line: Line, refused: Callable[[CollcommError], None]) -> None:
        """A door that stays shut is the end only when it is the only one."""
        with contextlib.suppress(zmq.Again):
            while True:
                error = line.watch.heard(recv_monitor_message(line.monitor, zmq.NOBLOCK))
                line.shut = line.shut or error
                if error is not None and all(other.shut for other in self._lines):
                    refused(error)

    def _read(self, number: int, line: Line, hear: Callable[[int, Message], None]) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                data = line.dealer.recv(zmq.NOBLOCK)
                try:
                    message = decode(data)
                except BadMessage as error:
                    line.watch.met = f"what answers there is not a coordinator of this version: {error}"
                    continue
                if message["t"] == "standby":
                    line.watch.stands_by(message["leader"])
                hear(number, message)

    def _echo(self, address: str) -> None:
        """Send back every pulse. libzmq's proxy runs in C and needs no GIL, so a live peer always answers."""
        assert self._pulse_context is not None
        socket = _dealer(self._pulse_context, PULSE_PREFIX + self._identity, address, self._credentials)
        try:
            socket.connect(f"tcp://{address}")
            socket.send(PULSE.pack(b"p", 0))
            zmq.proxy(socket, socket)
        except zmq.ZMQError:
            pass  # the context was terminated: we are closing
        finally:
            socket.close(0)


class Line:
    """The connection to one coordinator. ``shut``: why it will never let us in."""

    dealer: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]

    def __init__(self, address: str, credentials: PeerCredentials | None):
        self.address = address
        self.watch = LineWatch(address, credentials)
        self.shut: CollcommError | None = None
        self._credentials = credentials

    def open(self, context: zmq.Context[Any], identity: bytes, poller: zmq.Poller) -> None:
        self.dealer = _dealer(context, identity, self.address, self._credentials)
        self.monitor = self.dealer.get_monitor_socket(LineWatch.EVENTS)
        self.dealer.connect(f"tcp://{self.address}")
        poller.register(self.dealer, zmq.POLLIN)
        poller.register(self.monitor, zmq.POLLIN)

    def post(self, message: Mapping[str, Any]) -> None:
        try:
            self.dealer.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            pass  # the queue is full: the coordinator has been away for long
        except BadMessage:
            log.exception("the coordinator at %s was not told", self.address)

    def close(self, linger: int = LINGER_MILLISECONDS) -> None:
        self.dealer.disable_monitor()
        self.monitor.close(0)
        self.dealer.close(linger)


def _dealer(
    context: zmq.Context[Any], identity: bytes, address: str, credentials: PeerCredentials | None
) -> zmq.Socket[bytes]:
    dealer = context.socket(zmq.DEALER)
    dealer.setsockopt(zmq.IDENTITY, identity)
    dealer.setsockopt(zmq.LINGER, 200)
    dealer.setsockopt(zmq.MAXMSGSIZE, MAX_VIEW_BYTES)
    dealer.setsockopt(zmq.SNDHWM, 100)  # what a coordinator that was away should still hear
    dealer.setsockopt(zmq.RCVHWM, 10_000)
    dealer.setsockopt(zmq.RECONNECT_IVL, 50)
    dealer.setsockopt(zmq.RECONNECT_IVL_MAX, 200)
    dealer.setsockopt(zmq.IPV6, 1 if "[" in address else 0)
    if credentials is not None:
        credentials.protect(dealer)
    return dealer
