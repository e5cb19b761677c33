"""What a rank tells the others before a reconfiguration: where it would coordinate them.

A handle is a line of JSON. Its owner listens there until the handle is used, or the group ends; whose handle stands first
becomes the coordinator of all, so that no store and no earlier member is needed to meet.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import secrets
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import CollcommError, JoinRejected
from ..membership import Coordinator
from ..transports import format_address, host_identity, parse_addresses
from .worlds import LOOPBACK, fresh_secret, own_address

FORMAT = 1
MAX_BYTES = 4096


@dataclass(frozen=True)
class HandleText:
    """``id``: of this handle alone; ``host``: the same on one machine; ``who``: for people; ``secret``: what lets in there, None
    where that is nothing, or what everybody knows from COLLCOMM_SECRET."""

    id: str
    host: str
    who: str
    address: str
    secret: str | None

    def text(self) -> str:
        return json.dumps({"collcomm": FORMAT, **asdict(self)}, separators=(",", ":"))

    @property
    def is_local(self) -> bool:
        """Whether nobody on another host can get there."""
        return all(_is_loopback(host) for host, _ in parse_addresses(self.address))


def read(text: Any) -> HandleText:
    """Raises JoinRejected when this is no handle of ours."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        if len(text) <= MAX_BYTES:
            told = json.loads(text)
            if told.pop("collcomm") == FORMAT:
                handle = HandleText(**told)
                required = (handle.id, handle.host, handle.who, handle.address)
                if all(isinstance(field, str) and field for field in (*required, handle.secret or "-")):
                    parse_addresses(handle.address)
                    return handle
    raise JoinRejected(
        f"{str(text)[:80]!r} is not a reconfigure handle of collcomm: pass what get_reconfigure_handle() of each rank gave"
    )


def in_order(texts: Iterable[str]) -> list[HandleText]:
    """By rank: a list tells the ranks; a set has them ordered by id, equally everywhere. Raises JoinRejected."""
    handles = [read(text) for text in texts]
    if not handles:
        raise JoinRejected("a reconfiguration needs at least one handle: that of this rank")
    if len({handle.id for handle in handles}) < len(handles):
        raise JoinRejected("a handle is given twice: each rank has one of its own")
    return handles if isinstance(texts, list) else sorted(handles, key=lambda handle: handle.id)


class Offer:
    """This rank's handle, and the coordinator that listens there; none where COLLCOMM_COORDINATOR names one."""

    def __init__(self, store: Any):
        self.coordinator: Coordinator | None = None
        address, secret = os.environ.get("COLLCOMM_COORDINATOR"), None
        if address is None:
            host = _host(store)
            secret = None if host == LOOPBACK else fresh_secret()
            self.coordinator = Coordinator(format_address(host, 0), secret=secret)
            address = self.coordinator.address
        who = f"pid {os.getpid()} on {socket.gethostname()}"
        self.handle = HandleText(secrets.token_hex(8), host_identity(), who, address, secret)

    def close(self) -> None:
        """Harmless when done twice."""
        coordinator, self.coordinator = self.coordinator, None
        if coordinator is not None:
            coordinator.close()


def _host(store: Any) -> str:
    """Where the others reach this one, if anything tells; the loopback interface otherwise."""
    try:
        host = own_address(store)
    except (CollcommError, OSError):
        return LOOPBACK
    return LOOPBACK if _is_loopback(host) else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
