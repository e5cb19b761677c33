"""Transports: how bytes get from one peer to another. `base` is the contract."""

from __future__ import annotations

from .addresses import format_address, host_identity, local_address_towards, parse_address, parse_addresses
from .base import Link, LinkBroken, PathReport, Stream, Transport, TransportClosed
from .dialling import Route
from .shm import ShmRoute
from .sockets import SocketTransport
from .tcp import TcpRoute
from .tls import Tls

__all__ = [
    "Link",
    "LinkBroken",
    "PathReport",
    "Route",
    "ShmRoute",
    "SocketTransport",
    "Stream",
    "TcpRoute",
    "Tls",
    "Transport",
    "TransportClosed",
    "format_address",
    "host_identity",
    "local_address_towards",
    "parse_address",
    "parse_addresses",
]
