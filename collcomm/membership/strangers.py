"""Connections to the coordinator that do not come to anything: noticed, logged once per address, and bounded in time."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
from collections.abc import Mapping
from typing import Any

import zmq

from ..errors import CollcommError

log = logging.getLogger("collcomm.coordinator")
HANDSHAKE_SECONDS = 5.0  # who has not said within that time who it is, is dropped
MOST_LOGGED = 1000
MOST_HOSTS = 100_000  # connections whose origin is remembered
WANTED_DESCRIPTORS = 65_536
MECHANISM_MISMATCH = 0x11000002  # ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH

_REASONS = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "its key is not among the known ones",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "it has another secret or coordinator key, none, or is no collcomm peer",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "it hung up, or did not say in time who it is",
}


class Strangers:
    """Fed with a bound socket's monitor events of `EVENTS`, in their order, from a context with one I/O thread."""

    EVENTS = (
        zmq.EVENT_ACCEPTED
        | zmq.EVENT_DISCONNECTED
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    )

    def __init__(self) -> None:
        self._hosts: dict[int, str] = {}
        self._failed: str | None = None  # the reason, until the event that says whose connection it was
        self._logged: set[str] = set()

    def heard(self, event: Mapping[str, Any]) -> None:
        kind, value = event["event"], int(event["value"])
        if kind == zmq.EVENT_ACCEPTED:
            if len(self._hosts) < MOST_HOSTS:
                self._hosts[value] = _origin(value)
        elif kind in _REASONS:
            self._failed = _REASONS[kind]
        elif kind == zmq.EVENT_DISCONNECTED:
            host = self._hosts.pop(value, "an unknown address")
            why, self._failed = self._failed, None
            if why is not None and host not in self._logged and len(self._logged) < MOST_LOGGED:
                self._logged.add(host)
                log.warning("refused a connection from %s (said once per address): %s", host, why)


def _origin(descriptor: int) -> str:
    """Who is at the other end. The descriptor is libzmq's: a copy of it is asked, if it is still there."""
    with contextlib.suppress(OSError):
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            return str(copy.getpeername()[0])
    return "an unknown address"


def check_exposure(host: str, protected: bool, insecure: bool) -> None:
    """Raise CollcommError when everybody in a network could reach an unprotected coordinator and nobody has said so."""
    if protected or insecure or _is_loopback(host):
        return
    raise CollcommError(
        f"a coordinator on {host} without protection would let everybody in the network join and send data; give "
        f"secret= (or COLLCOMM_SECRET, --secret-file), or keys= (COLLCOMM_KEYS, --keys; made by: collcomm keys DIR), "
        f"or say insecure=True (--insecure) if the network keeps strangers out"
    )


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


def make_room() -> None:
    """Let this process have as many descriptors as it may: idle strangers must not use up those for peers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(WANTED_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
