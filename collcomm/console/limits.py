"""What this host's kernel allows a peer: buffers, open files, shared memory, congestion control."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

from . import units
from .checkup import Level, Line

FEW_FILES = 4096  # connections of a peer among some hundred others, a few each
SMALL_BUFFER = 4 << 20  # 1 Gbit/s over 30 ms
SMALL_SHARED = 1 << 30
SHARED = "/dev/shm"


def of_this_host() -> Iterator[Line]:
    yield from _buffers()
    yield _congestion()
    yield _files()
    yield _shared()
    yield from _time()


def _buffers() -> Iterator[Line]:
    for name, which, core in (("tcp_rmem", "receive", "rmem_max"), ("tcp_wmem", "send", "wmem_max")):
        found = _numbers(f"/proc/sys/net/ipv4/{name}")
        most = _numbers(f"/proc/sys/net/core/{core}")
        if len(found) != 3:
            yield Line(f"{which} buffer", Level.NOTE, f"net.ipv4.{name} cannot be read on this system")
            continue
        facts = {"most": found[2], "default": found[1], core: most[0] if most else None}
        text = f"grows up to {units.size(found[2])} a connection"
        if found[2] < SMALL_BUFFER:
            advice = (
                f"long fat links will not be filled: sysctl -w net.ipv4.{name}='4096 131072 33554432', or streams=4"
            )
            yield Line(f"{which} buffer", Level.WARNING, text, advice, facts)
        else:
            yield Line(f"{which} buffer", Level.OK, text, "", facts)


def _congestion() -> Line:
    here = _words("/proc/sys/net/ipv4/tcp_congestion_control")
    if here is None:
        return Line("congestion", Level.NOTE, "which congestion control is used cannot be read on this system")
    others = (_words("/proc/sys/net/ipv4/tcp_available_congestion_control") or "").split()
    with socket.socket() as sock:
        buffers = {
            "send_buffer": sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
            "receive_buffer": sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        }
    text = f"{here}, of {', '.join(others) or here}"
    text += f"; buffers begin with {units.size(buffers['send_buffer'])} and {units.size(buffers['receive_buffer'])}"
    return Line("congestion", Level.OK, text, "", {"algorithm": here, "available": others, **buffers})


def _files() -> Line:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = "no limit" if hard == resource.RLIM_INFINITY else f"{hard:,} at most"
    facts = {"soft": soft, "hard": None if hard == resource.RLIM_INFINITY else hard}
    text = f"{soft:,} at a time, {limit}" if soft != resource.RLIM_INFINITY else "no limit"
    if soft != resource.RLIM_INFINITY and soft < FEW_FILES:
        advice = f"a large group needs a connection per pair and stream: ulimit -n {FEW_FILES} before the peer starts"
        return Line("open files", Level.WARNING, text, advice, facts)
    return Line("open files", Level.OK, text, "", facts)


def _shared() -> Line:
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return Line("shared memory", Level.NOTE, f"there is no {SHARED} here")
    total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    facts = {"bytes": total, "free": free}
    text = f"{units.size(free)} of {units.size(total)} free in {SHARED}; collcomm itself needs none of it"
    if total < SMALL_SHARED:
        return Line(
            "shared memory", Level.WARNING, text, "data loaders do: docker run --shm-size=8g, or --ipc=host", facts
        )
    return Line("shared memory", Level.OK, text, "", facts)


def _time() -> Iterator[Line]:
    """A limit on processor time ends a training run without a word."""
    soft, _ = resource.getrlimit(resource.RLIMIT_CPU)
    if soft == resource.RLIM_INFINITY:
        yield Line("time limit", Level.OK, "none on processor time", "", {"seconds": None})
    else:
        text = f"processes are ended after {units.seconds(soft)} of processor time"
        yield Line(
            "time limit", Level.WARNING, text, "ulimit -t unlimited, or ask whoever runs this host", {"seconds": soft}
        )


def _words(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _numbers(path: str) -> list[int]:
    try:
        return [int(word) for word in (_words(path) or "").split()]
    except ValueError:
        return []
