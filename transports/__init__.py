"""Transports: how bytes get from one peer to another. `base` is the contract."""

from __future__ import annotations

from .addresses import format_address, host_identity, local_address_towards, parse_address, parse_addresses
from .base import Link, LinkBroken, Stream, Transport, TransportClosed
from .tcp import TcpTransport
from .tls import Tls

__all__ = [
    "Link",
    "LinkBroken",
    "Stream",
    "TcpTransport",
    "Tls",
    "Transport",
    "TransportClosed",
    "format_address",
    "host_identity",
    "local_address_towards",
    "parse_address",
    "parse_addresses",
]
