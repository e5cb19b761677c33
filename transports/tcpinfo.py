"""TCP_INFO: what Linux tells of a connection (struct tcp_info of linux/tcp.h). It has grown with the kernels, at its end."""

from __future__ import annotations

import socket
import struct
import sys
from typing import NamedTuple

_LAYOUT = struct.Struct(
    "=2x BBB 2x B"  # 2: retransmits, probes, backoff; 7: flags
    "16x I 28x I"  # 24: unacked; 56: last_ack_recv
    "8x I 28x I"  # 68: rtt; 100: total_retrans
    "16x Q 32x Q"  # 120: bytes_acked; 160: delivery_rate
    "QQQ"  # 168: busy_time; 176: rwnd_limited; 184: sndbuf_limited
)
ACKNOWLEDGED, RATED, TIMED = (
    60,
    168,
    192,
)  # bytes up to last_ack_recv; up to delivery_rate; up to sndbuf_limited (Linux 4.9)


class TcpInfo(NamedTuple):
    """Of these fields, in the kernel's units."""

    retransmits: int = 0  # in a row
    probes: int = 0  # of a closed window
    backoff: int = 0
    flags: int = 0
    unacked: int = 0  # segments
    last_ack_ms: int = 0  # since the last acknowledgement came
    rtt_us: int = 0  # smoothed
    total_retransmits: int = 0  # since the connection was made
    acknowledged: int = 0  # bytes
    rate: int = 0  # bytes per second
    busy_us: int = 0  # in which bytes were on their way
    receiver_limited_us: int = 0  # of these, in which the other end had no room
    sender_limited_us: int = 0  # in which this end's buffer was too small

    @property
    def app_limited(self) -> bool:
        """Whether ``rate`` is what was given to be sent, not what the path carries."""
        return bool(self.flags & 1)

    def pack(self) -> bytes:
        """As the kernel tells it."""
        return _LAYOUT.pack(*self)


def read(sock: socket.socket, least: int) -> TcpInfo | None:
    """What is known of ``sock``; None when it is closed, or where the system tells less than the first ``least`` bytes."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAYOUT.size)
    except OSError:
        return None
    return TcpInfo(*_LAYOUT.unpack(info.ljust(_LAYOUT.size, b"\0"))) if len(info) >= least else None
