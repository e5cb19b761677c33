"""Where a peer can be reached: parsing "host:port", and the local address on the route to another host."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def parse_address(text: str) -> tuple[str, int]:
    """Split "host:port", "1.2.3.4:5", "[::1]:5". Raises ValueError that says what is wrong."""
    if not isinstance(text, str):
        raise ValueError(f"an address is a string like 'host:48148', not {text!r}")
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r}: write an IPv6 address in brackets, like '[::1]:48148'")
    if not colon or not host:
        raise ValueError(f"{text!r} has no port; write it like 'host:48148'")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r}: the port must be a number from 0 to 65535")
    return host, int(port)


MAX_COORDINATORS = 8


def parse_addresses(text: str) -> list[tuple[str, int]]:
    """Split "a:48148,b:48148". Raises ValueError."""
    found = (
        [parse_address(part.strip()) for part in text.split(",")] if isinstance(text, str) else [parse_address(text)]
    )
    if len(found) > MAX_COORDINATORS or len(set(found)) < len(found):
        raise ValueError(f"{text!r}: name at most {MAX_COORDINATORS} coordinators, each once")
    return found


def format_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def local_address_towards(host: str, port: int) -> str:
    """The address of the interface that this machine would use to reach ``host``. Sends nothing.

    Raises OSError when there is no route or the name does not resolve.
    """
    family, kind, proto, _, target = socket.getaddrinfo(host, port or 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, proto) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0])


def host_identity() -> str:
    """Names the kernel and network namespace that this process lives in; equal for peers that share a host."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}"
    except OSError:
        return socket.gethostname()
