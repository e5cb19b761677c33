"""Connections in memory, under somebody else's clock: they delay, hold back, and break.

`SimSocket` stands in for a socket below the real `TcpStream`. Bytes of one connection arrive in order or not at all; a *cut*
from one host to another holds them back, as TCP does on a path that drops packets.
"""

from __future__ import annotations

import errno
import itertools
import random
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from .poller import Wanted
from .tcpinfo import TcpInfo

if TYPE_CHECKING:
    from .sim import SimTransport

LOOK_SECONDS = 0.02  # how often a waiting task looks whether it should give up
RETRANSMIT_SECONDS = 0.2
_DONTWAIT = socket.MSG_DONTWAIT


class Waiter(Protocol):
    def wake(self) -> None: ...


class Scheduler(Protocol):
    """Who runs when. ``park`` may be called by tasks only."""

    now: float
    random: random.Random

    def after(self, seconds: float, action: Callable[[], None]) -> None: ...

    def waiter(self) -> Any:
        """What the running task parks with."""

    def park(self, waiter: Any, seconds: float) -> None:
        """The running task sleeps until it is woken, or for ``seconds``."""


class Host(Protocol):
    """The process that a transport belongs to."""

    crashed: bool

    def when_running(self, action: Callable[[], None]) -> None:
        """Do it now, when the process goes on, or never."""

    def step(self) -> None:
        """A system call; the process may die here."""


class Network:
    """All connections. ``delay()``: seconds that the next packet takes; ``capacity``: bytes between two ends."""

    def __init__(self, scheduler: Scheduler, delay: Callable[[], float], capacity: int):
        self.scheduler = scheduler
        self.delay = delay
        self.capacity = capacity
        self.sockets: dict[int, SimSocket] = {}
        self.transports: dict[int, SimTransport] = {}
        self._cuts: set[tuple[Host, Host]] = set()
        self._held: dict[tuple[Host, Host], list[Callable[[], None]]] = {}  # in the order of arrival
        self._numbers = itertools.count(1000)
        self._ports = itertools.count(1)

    def number(self) -> int:
        return next(self._numbers)

    def register(self, transport: SimTransport) -> int:
        port = next(self._ports)
        self.transports[port] = transport
        return port

    def connect(self, caller: Host, called: Host) -> tuple[SimSocket, SimSocket]:
        ends = SimSocket(self, caller), SimSocket(self, called)
        ends[0].other, ends[1].other = ends[1], ends[0]
        ends[1].serial = ends[0].serial
        return ends

    # -- packets -------------------------------------------------------------------------------------------------

    def carry(self, source: Host, target: Host, seconds: float, action: Callable[[], None]) -> None:
        """Do ``action`` at ``target`` after a time, or once the way there is open again."""
        self.scheduler.after(seconds, lambda: self._arrive(source, target, action))

    def _arrive(self, source: Host, target: Host, action: Callable[[], None]) -> None:
        held = self._held.get((source, target))
        if held is None:
            action()
        else:
            held.append(action)

    def cut(self, source: Host, target: Host) -> None:
        """Nothing gets from ``source`` to ``target`` any more."""
        self._cuts.add((source, target))
        self._held.setdefault((source, target), [])

    def heal(self, source: Host, target: Host) -> None:
        """What was held back arrives at the next retransmission, before anything that is sent from now on."""
        self._cuts.discard((source, target))
        self.scheduler.after(RETRANSMIT_SECONDS, lambda: self._release(source, target))

    def _release(self, source: Host, target: Host) -> None:
        if (source, target) not in self._cuts:
            for action in self._held.pop((source, target), ()):
                action()

    # -- ends ----------------------------------------------------------------------------------------------------

    def crash(self, host: Host, lose: Callable[[], bool]) -> None:
        """``host`` is gone; ``lose()``: whether a connection's bytes on their way are lost with it (a reset)."""
        for end in [end for end in self.sockets.values() if end.host is host]:
            end.shut(errno.ECONNRESET if lose() else 0)

    def break_links(self, first: Host, second: Host) -> None:
        """Reset all connections between two hosts."""
        for end in list(self.sockets.values()):
            if end.host is first and end.other.host is second:
                self.reset(end)

    def reset(self, end: SimSocket) -> None:
        """One connection, as seen from one end first."""
        end.error = errno.ECONNRESET
        end.wake()
        end.shut(errno.ECONNRESET)


class SimSocket:
    """One end of a connection, with as much of a socket's interface as `TcpStream` uses."""

    other: SimSocket

    def __init__(self, network: Network, host: Host):
        self.host = host
        self.error = 0
        self._network = network
        self._scheduler = network.scheduler
        self._number = self.serial = network.number()
        self._inbox = bytearray()
        self._flying = 0  # bytes on their way to us
        self._ended = False
        self._closed = False
        self._arrives_at = 0.0
        self._unacked: deque[float] = deque()  # when what was not acknowledged yet was sent
        self._waiting: list[Waiter] = []
        network.sockets[self._number] = self

    # -- what TcpStream calls ------------------------------------------------------------------------------------

    def fileno(self) -> int:
        return self._number

    def recv_into(self, target: memoryview, nbytes: int = 0, flags: int = 0) -> int:
        if not self.readable and not flags & _DONTWAIT:
            self._park()
        if self._inbox:
            count = min(len(target), len(self._inbox))
            target[:count] = self._inbox[:count]
            del self._inbox[:count]
            self.other.wake()
            return count
        if self.error:
            raise ConnectionResetError(self.error, "connection reset (simulated)")
        if self._ended or self._closed:
            return 0
        raise BlockingIOError

    def recv(self, count: int, _flags: int) -> bytes:
        """Looks only: what is there stays."""
        if not self.readable:
            raise BlockingIOError
        if self.error:
            raise ConnectionResetError(self.error, "connection reset (simulated)")
        return bytes(self._inbox[:count])

    def sendmsg(self, buffers: Iterable[Any], _: Iterable[Any] = (), flags: int = 0) -> int:
        self.host.step()
        if not self.writable and not flags & _DONTWAIT:
            self._park()
        if self.error or self._closed or self.other._closed:
            raise BrokenPipeError(errno.EPIPE, "broken pipe (simulated)")
        room = self._room
        if room <= 0:
            raise BlockingIOError
        data = b"".join(bytes(buffer) for buffer in buffers)[:room]
        self._fly(data)
        return len(data)

    def send(self, buffer: Any, flags: int = 0) -> int:
        return self.sendmsg((buffer,), (), flags)

    def settimeout(self, _: float | None) -> None: ...

    def setsockopt(self, *_: Any) -> None: ...

    def getpeername(self) -> Any:
        raise OSError(errno.ENOTCONN, "simulated")

    def getsockopt(self, level: int, option: int, nbytes: int) -> bytes:
        """TCP_INFO, of which only the acknowledgements are kept up."""
        info = TcpInfo()
        if self._unacked:
            silent = self._scheduler.now - self._unacked[0]
            again = int(silent > RETRANSMIT_SECONDS)
            info = TcpInfo(retransmits=again, unacked=len(self._unacked), last_ack_ms=int(silent * 1e3))
        return info.pack()[:nbytes]

    def shutdown(self, _: int) -> None: ...

    def close(self) -> None:
        if not self.host.crashed:
            self.shut(0)

    # -- the connection ------------------------------------------------------------------------------------------

    @property
    def readable(self) -> bool:
        return bool(self._inbox or self.error or self._ended or self._closed)

    @property
    def writable(self) -> bool:
        return self._room > 0 or bool(self.error or self._closed or self.other._closed)

    @property
    def _room(self) -> int:
        other = self.other
        return self._network.capacity - len(other._inbox) - other._flying

    def _fly(self, data: bytes) -> None:
        other, scheduler = self.other, self._scheduler
        other._flying += len(data)
        self._unacked.append(scheduler.now)
        self._arrives_at = max(self._arrives_at, scheduler.now + self._network.delay()) + 1e-9

        def arrive() -> None:
            other._flying -= len(data)
            if not other._closed and not other.error:
                other._inbox += data
                other.wake()
            self._network.carry(other.host, self.host, self._network.delay(), self._acknowledged)

        self._network.carry(self.host, other.host, self._arrives_at - scheduler.now, arrive)

    def _acknowledged(self) -> None:
        if self._unacked:
            self._unacked.popleft()

    def shut(self, error: int) -> None:
        """This end is gone. ``error``: 0 for an end after all that was sent, else the other end loses what it had not read."""
        if self._closed:
            return
        self._closed = True
        self._network.sockets.pop(self._number, None)
        self.wake()
        other = self.other

        def hear() -> None:
            if error:
                other._inbox.clear()
                other.error = error
            other._ended = True
            other.wake()

        self._arrives_at = max(self._arrives_at, self._scheduler.now + self._network.delay()) + 1e-9
        self._network.carry(self.host, other.host, self._arrives_at - self._scheduler.now, hear)

    def wait(self, waiter: Waiter) -> None:
        self._waiting.append(waiter)

    def wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.wake()

    def _park(self) -> None:
        waiter = self._scheduler.waiter()
        self.wait(waiter)
        self._scheduler.park(waiter, LOOK_SECONDS)


class SimPoller(Wanted):
    """poll(2) over simulated sockets."""

    def __init__(self, network: Network):
        super().__init__()
        self._network = network

    def poll(self, certain: list[int]) -> list[tuple[int, int]]:
        ready = self._ready(certain)
        if not ready:
            waiter = self._network.scheduler.waiter()
            for descriptor in self._wanted:
                if descriptor in self._network.sockets:
                    self._network.sockets[descriptor].wait(waiter)
            self._network.scheduler.park(waiter, LOOK_SECONDS)
            ready = self._ready(certain)
        return ready

    def _ready(self, certain: list[int]) -> list[tuple[int, int]]:
        found = []
        for descriptor, wanted in self._wanted.items():
            end = self._network.sockets.get(descriptor)
            events = select.POLLIN if descriptor in certain else 0
            if end is None:
                events |= select.POLLIN | select.POLLHUP
            else:
                events |= select.POLLIN * end.readable | select.POLLOUT * end.writable
            if events & (wanted | select.POLLHUP):
                found.append((descriptor, events & (wanted | select.POLLHUP)))
        return found
