"""A network in memory, under somebody else's clock: connections that delay, hold back, and break, for simulation.

`SimSocket` stands in for a socket below the real `TcpStream`; `SimTransport` for `TcpTransport`. Bytes of one connection
arrive in order or not at all; a *cut* from one host to another holds them back, as TCP does on a path that drops packets.
"""

from __future__ import annotations

import errno
import itertools
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from ..types import Member
from .base import LinkBroken, TransportClosed
from .stream import TcpStream

LOOK_SECONDS = 0.02  # how often a waiting task looks whether it should give up
CONNECT_SECONDS = 5.0
RETRANSMIT_SECONDS = 0.2
_DONTWAIT = socket.MSG_DONTWAIT

_REFUSED, _OUTDATED = object(), object()

_Key = tuple[int, int, int]  # gid, purpose, member


class Waiter(Protocol):
    def wake(self) -> None: ...


class Scheduler(Protocol):
    """Who runs when. ``park`` may be called by tasks only."""

    now: float

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
        self._number = network.number()
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
        info = bytearray(nbytes)
        if self._unacked:
            silent = self._scheduler.now - self._unacked[0]
            info[2] = int(silent > RETRANSMIT_SECONDS)
            struct.pack_into("=I", info, 24, len(self._unacked))
            struct.pack_into("=I", info, 56, int(silent * 1e3))
        return bytes(info)

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


class SimPoller:
    """poll(2) over simulated sockets."""

    def __init__(self, network: Network):
        self._network = network
        self._wanted: dict[int, int] = {}

    def want(self, descriptor: int, events: int) -> None:
        self._wanted[descriptor] = self._wanted.get(descriptor, 0) | events

    def forget(self, descriptor: int, events: int) -> None:
        self._wanted[descriptor] &= ~events
        if not self._wanted[descriptor]:
            del self._wanted[descriptor]

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


class SimLink:
    def __init__(self, member: int, streams: list[TcpStream]):
        self.member = member
        self.streams = streams

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


def _stream(end: SimSocket, member: int) -> TcpStream:
    return TcpStream(end, member, spins=0)  # type: ignore[arg-type]


class SimTransport:
    """As `TcpTransport`: the later member dials."""

    name = "sim"
    offers = frozenset({"messages"})

    def __init__(self, network: Network, host: Host):
        self.host = host
        self.port = network.register(self)
        self._network = network
        self._scheduler = network.scheduler
        self._member = -1
        self._epoch = -1
        self._keys: dict[int, bytes] = {}
        self._early: list[Callable[[], None]] = []  # greetings of views to come
        self._links: dict[_Key, SimLink] = {}
        self._closed = False
        self._waiting: list[Waiter] = []

    def introduce(self, member: int) -> None:
        self._member = member

    def admit(self, epoch: int, keys: Mapping[int, bytes]) -> None:
        self._epoch, self._keys = epoch, dict(keys)
        early, self._early = self._early, []
        for greeting in early:
            greeting()
        self._wake()

    def poller(self) -> SimPoller:
        return SimPoller(self._network)

    def link(self, gid: int, purpose: int, member: Member, check: Callable[[], None]) -> SimLink:
        key = (gid, purpose, member.id)
        if key not in self._links and self._member > member.id:
            self._dial(key, member, check)
        while key not in self._links:
            if self._closed:
                raise TransportClosed("the communicator was closed while waiting for a connection")
            self._park()
            check()
        return self._links[key]

    def keep_only(self, members: Iterable[int]) -> None:
        keep = set(members)
        self._drop(lambda key: key[2] not in keep)

    def drop_member(self, member: int) -> None:
        self._drop(lambda key: key[2] == member)

    def drop_group(self, gid: int) -> None:
        self._drop(lambda key: key[0] == gid)

    def drop_link(self, gid: int, purpose: int, member: int) -> None:
        self._drop(lambda key: key == (gid, purpose, member))

    def _drop(self, unwanted: Callable[[_Key], bool]) -> None:
        for key in [key for key in self._links if unwanted(key)]:
            self._links.pop(key).close()

    def traffic(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        self._closed = True
        self._drop(lambda key: True)

    # -- dialling ------------------------------------------------------------------------------------------------

    def _dial(self, key: _Key, member: Member, check: Callable[[], None]) -> None:
        """Ends, since each turn takes a later view."""
        while True:
            epoch, secret = self._epoch, self._keys.get(member.id)
            if secret is None:
                check()
                raise LinkBroken(member.id, "closed", f"{member} is not in view {epoch}")
            answer = self._greet(key, member, epoch, secret, check)
            if isinstance(answer, SimSocket):
                self._put(key, SimLink(member.id, [_stream(answer, member.id)]))
                return
            if answer is _REFUSED:
                check()
                if self._epoch == epoch:
                    raise LinkBroken(member.id, "closed", f"cannot connect to {member}: refused")
            self._until(lambda: self._epoch > epoch, member, check)

    def _greet(
        self, key: _Key, member: Member, epoch: int, secret: bytes, check: Callable[[], None]
    ) -> SimSocket | object:
        """One connection attempt: an end, or `_REFUSED`, or `_OUTDATED` when the other side is in a later view."""
        answer: list[SimSocket | object] = []
        network, deadline = self._network, self._scheduler.now + CONNECT_SECONDS
        target = network.transports[member.port]
        calling = (key[0], key[1], self._member)

        def reply(found: SimSocket | object) -> None:
            answer.append(found)
            self._wake()

        def send_back(found: SimSocket | object) -> None:
            network.carry(target.host, self.host, network.delay(), lambda: reply(found))

        def arrive() -> None:
            if target.host.crashed or target._closed:
                send_back(_REFUSED)
            else:
                target.host.when_running(meet)

        def meet() -> None:
            if target._closed or target._scheduler.now > deadline:
                send_back(_REFUSED)
            elif target._epoch < epoch:
                target._early.append(meet)  # it hears of that view soon
            elif target._epoch > epoch:
                send_back(_OUTDATED)
            elif target._member != member.id or target._keys.get(self._member) != secret:
                send_back(_REFUSED)
            else:
                mine, theirs = network.connect(self.host, target.host)
                target._put(calling, SimLink(self._member, [_stream(theirs, self._member)]))
                send_back(mine)

        network.carry(self.host, target.host, 2 * network.delay(), arrive)
        try:
            self._until(lambda: bool(answer), member, check)
        except BaseException:
            if answer and isinstance(answer[0], SimSocket):
                answer[0].close()
            raise
        return answer[0]

    def _until(self, condition: Callable[[], bool], member: Member, check: Callable[[], None]) -> None:
        deadline = self._scheduler.now + CONNECT_SECONDS
        while not condition():
            if self._closed:
                raise TransportClosed("the communicator was closed while dialling")
            if self._scheduler.now > deadline:
                raise LinkBroken(member.id, "unacked", f"cannot connect to {member}: no answer")
            self._park()
            check()

    def _put(self, key: _Key, link: SimLink) -> None:
        old = self._links.pop(key, None)
        if old is not None:
            old.close()
        self._links[key] = link
        self._wake()

    def _park(self) -> None:
        waiter = self._scheduler.waiter()
        self._waiting.append(waiter)
        self._scheduler.park(waiter, LOOK_SECONDS)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.wake()
