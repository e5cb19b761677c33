"""One connection as a stream of frames.

The socket stays in blocking mode with a receive and send time-out of a few milliseconds: a short wait costs one system
call and wakes in the kernel's fastest way, and the caller gets control back often enough to notice that the group is
halting. Non-blocking calls pass MSG_DONTWAIT.

Three things let a connection outlive an aborted operation, so that a view change need not dial again. Bytes that were
read too early are put back (`unread`). The rest of a frame that nobody wants is passed over as it comes (`skip`). A frame that
was sent in part is filled up before the next one (`owe`); its epoch is over, so its receiver skips it
whatever it contains.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .base import Buffer, LinkBroken, PathReport
from .tcpinfo import ACKNOWLEDGED, RATED, TIMED, read

WAIT_SECONDS = 0.005  # one blocking call; bounds how late a halt is noticed
SPINS = 30  # looks before sleeping, about 50 us: an idle core takes longer to wake, and sched_yield lets others run
_TIMEVAL = struct.pack("@ll", 0, int(WAIT_SECONDS * 1e6))
_FILLER = bytes(1 << 16)
_UNACKED = frozenset({errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN})
_DONTWAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_NOSIGNAL = socket.MSG_NOSIGNAL
_NOTSENT_LOWAT = 25  # TCP_NOTSENT_LOWAT of Linux
_ABORT = struct.pack("@ii", 1, 0)  # SO_LINGER: closing sends a reset, and nothing that was queued
QUEUED_BYTES = 1 << 17  # what a stream among several has in its socket beyond what is on the way


class Delivery(NamedTuple):
    """``nbytes``: acknowledged; ``seconds``: in which bytes were on their way, and no lack of room at either end held them up;
    ``limited``: the last of them by what there was to be sent; ``held``: seconds in which the receiver had no room; ``lost``:
    packets sent again."""

    nbytes: int
    seconds: float
    limited: bool
    held: float = 0.0
    lost: int = 0


class SocketStream:
    """One connection to ``member``. Not thread-safe: one thread at a time sends, one at a time receives.

    ``spins``: looks before a receive sleeps. ``serial``: what both ends call it.
    """

    __slots__ = (
        "_debt",
        "_recv",
        "_recv_several",
        "_residue",
        "_send",
        "_send_one",
        "_skip",
        "_spins",
        "bytes_received",
        "bytes_sent",
        "member",
        "rate",
        "retired",
        "serial",
        "socket",
    )

    def __init__(self, sock: socket.socket, member: int, spins: int = SPINS, serial: int = 0):
        self.member = member
        self.serial = serial
        self.retired = False
        self.rate = 0.0
        self.bytes_sent = 0
        self.bytes_received = 0
        self._residue = b""
        self._skip = 0
        self._debt = 0
        self.socket = sock
        self._spins = spins
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL)
        self._recv: Callable[..., int] = sock.recv_into
        self._recv_several: Callable[..., Any] | None = getattr(sock, "recvmsg_into", None)
        self._send: Callable[..., int] = sock.sendmsg
        self._send_one: Callable[..., int] = sock.send

    def fileno(self) -> int:
        number = self.socket.fileno()
        if number < 0:  # another thread has closed it: the peer is no longer a member
            raise LinkBroken(self.member, "closed", "the connection was closed by this side")
        return number

    def send(self, header: Buffer, payload: Buffer | None = None, _flags: int = _NOSIGNAL) -> int:
        if self._debt and not self._pay(_flags):
            return 0
        try:
            sent = self._send((header, payload), (), _flags) if payload is not None else self._send_one(header, _flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken(error) from None
        self.bytes_sent += sent
        return sent

    @property
    def gathers(self) -> bool:
        return self._recv_several is not None

    def send_several(self, buffers: Sequence[Buffer]) -> int:
        if self._debt and not self._pay(_NOSIGNAL):
            return 0
        try:
            sent = self._send(buffers, (), _NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken(error) from None
        self.bytes_sent += sent
        return sent

    def try_send(self, header: Buffer, payload: Buffer) -> int:
        return self.send(header, payload, _DONTWAIT)

    def receive(self, target: memoryview) -> int:
        if not self._skip and not self._residue:
            receive, pause = self._recv, os.sched_yield
            for _ in range(self._spins):
                try:
                    count = receive(target, 0, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pause()
                    continue
                except OSError as error:
                    raise self._broken(error) from None
                if not count:
                    break  # the end of the stream; said below
                self.bytes_received += count
                return count
        return self.try_receive(target, 0)

    def receive_whole(self, target: memoryview) -> int:
        """Without a look, nor a turn of this program, for each packet that comes over a slow link."""
        return self.try_receive(target, socket.MSG_WAITALL)

    def try_receive(self, target: memoryview, _flags: int = socket.MSG_DONTWAIT) -> int:
        if self._skip and not self._pass_over(_flags):
            return 0
        if self._residue:
            count = min(len(target), len(self._residue))
            target[:count] = self._residue[:count]
            self._residue = self._residue[count:]
            return count
        try:
            count = self._recv(target, 0, _flags)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._broken(error) from None
        if not count and len(target):
            raise LinkBroken(self.member, "closed", "the connection was closed by the other side")
        self.bytes_received += count
        return count

    def receive_several(self, targets: Sequence[memoryview]) -> int:
        if self._recv_several is not None and not self._skip and not self._residue:
            try:
                count = int(self._recv_several(targets, 0, socket.MSG_DONTWAIT)[0])
            except BlockingIOError:
                count = 0  # waited for below; many buffers are not looked through at each look
            except OSError as error:
                raise self._broken(error) from None
            if count:
                self.bytes_received += count
                return count
        return self.receive(targets[0])

    def unread(self, data: bytes | bytearray | memoryview) -> None:
        """Put back bytes; the next receive gets them first."""
        self._residue = bytes(data) + self._residue

    def owe(self, count: int) -> None:
        """The last frame lacks ``count`` bytes that its sender no longer wants to send."""
        self._debt += count

    def skip(self, count: int) -> None:
        """The next ``count`` bytes are of no interest to anybody."""
        self._skip += count

    @property
    def has_unread(self) -> bool:
        """Whether a receive may succeed although the socket has nothing to read."""
        return bool(self._residue)

    def _pass_over(self, flags: int) -> bool:
        sink = memoryview(bytearray(min(self._skip, 1 << 18)))
        while self._skip:
            wanted, self._skip = self._skip, 0  # try_receive() without this branch
            count = self.try_receive(sink[:wanted], flags)
            self._skip = wanted - count
            if not count:
                return False
        return True

    def _pay(self, flags: int) -> bool:
        try:
            while self._debt:
                sent = self._send((_FILLER[: self._debt],), (), flags)
                self._debt -= sent
                self.bytes_sent += sent
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._broken(error) from None
        return True

    def check_open(self) -> None:
        """Raise LinkBroken when the other side has closed; for connections on which nothing comes."""
        try:
            if self.socket.recv(1, _DONTWAIT | socket.MSG_PEEK):
                return
        except BlockingIOError:
            return
        except OSError as error:
            raise self._broken(error) from None
        raise LinkBroken(self.member, "closed", "the connection was closed by the other side")

    def unacknowledged_for(self) -> float:
        """Seconds since the other host's kernel last answered while it owes an answer; 0.0 when it owes none, as on one
        host."""
        return 0.0

    def path_report(self) -> PathReport | None:
        """What the kernel knows of the path; None where it does not tell, as of a connection within a host."""
        return None

    def bound_queue(self, waiting: int = QUEUED_BYTES) -> None:
        """Take no more than ``waiting`` bytes at a time beyond those on their way, where the kernel can be told. For one of
        several streams: then a slow path holds up little, and may be as wide as it likes."""

    def delivery(self) -> Delivery | None:
        """How the path has dealt with what was sent so far; None where the kernel does not tell."""
        return None

    def unacknowledged(self) -> int:
        """Bytes that the other host has not acknowledged; 0 where the kernel does not tell."""
        return 0

    def _broken(self, error: OSError) -> LinkBroken:
        evidence = "unacked" if error.errno in _UNACKED else "closed"
        return LinkBroken(self.member, evidence, error.strerror or str(error))

    def retire(self) -> None:
        """Close it at once, whatever is under way; the link's other streams go on."""
        self.retired = True
        try:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        except OSError:
            pass  # it is closed
        self.socket.close()

    def close(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()


class TcpStream(SocketStream):
    """A `SocketStream` over TCP."""

    __slots__ = ("_owed",)

    def __init__(self, sock: socket.socket, member: int, spins: int = SPINS, serial: int = 0):
        super().__init__(sock, member, spins, serial)
        self._owed: tuple[int, float] | None = (
            None  # what was acknowledged when something was seen not to be, and when that was
        )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _forgo_congestion_control(sock)

    def unacknowledged_for(self) -> float:
        """A live host whose program does not read still acknowledges or answers window probes, so a slow reader is never taken
        for a dead path. The kernel tells when an acknowledgement came last, which on a connection that rested may be long
        before anything was owed: it counts from the first call that sees that it is."""
        info = read(self.socket, ACKNOWLEDGED)
        if info is None or not (info.unacked or info.probes > 1):
            self._owed = None
            return 0.0
        now, owed = time.monotonic(), self._owed
        if owed is None or owed[0] != info.acknowledged:
            owed = self._owed = info.acknowledged, now
        sent_again = info.retransmits or info.backoff or info.probes > 1
        return min(info.last_ack_ms / 1e3, now - owed[1]) if sent_again else 0.0

    def path_report(self) -> PathReport | None:
        """A path may have room for more than ``rate``: the kernel lets a connection have no more than net.ipv4.tcp_wmem in
        flight, 4 MiB where nobody has raised it, which is 40 MB/s at 100 ms, whatever the path."""
        info = read(self.socket, RATED)
        if info is None:
            return None
        rtt, rate = info.rtt_us / 1e6, float(info.rate)
        return PathReport(rtt, rate, info.app_limited, info.total_retransmits, info.acknowledged)

    def bound_queue(self, waiting: int = QUEUED_BYTES) -> None:
        if sys.platform.startswith("linux"):
            try:
                self.socket.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, waiting)
            except OSError:
                pass  # it has closed, or cannot: more waits

    def delivery(self) -> Delivery | None:
        info = read(self.socket, TIMED)
        if info is None:
            return None
        moving = info.busy_us - info.receiver_limited_us - info.sender_limited_us
        held = info.receiver_limited_us / 1e6
        return Delivery(info.acknowledged, max(0, moving) / 1e6, info.app_limited, held, info.total_retransmits)

    def unacknowledged(self) -> int:
        if not sys.platform.startswith("linux"):
            return 0
        try:
            return int(struct.unpack("i", fcntl.ioctl(self.socket, termios.TIOCOUTQ, b"\0" * 4))[0])
        except (OSError, ValueError):
            return 0  # closed by now: the next call says so


def _forgo_congestion_control(sock: socket.socket) -> None:
    """Between two processes of one host there is no path to be fair on, and a pacing algorithm (BBR) costs a third of the
    throughput; other connections keep the system's choice."""
    try:
        if sock.getpeername()[0] == sock.getsockname()[0]:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    except (OSError, AttributeError):
        pass  # not to be had here: only slower
