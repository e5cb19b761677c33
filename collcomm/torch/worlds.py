"""From a torch store to a communicator: the peers of a process group find each other, and share one session where they can.

A *world* is one run of a collcomm group: a session of this process, and a coordinator at one of its members, or elsewhere. The
first process group makes one; a later one whose ranks are all in the same world gets a communicator there, and costs no
connection until it is used. So what everybody does first is to tell, through the store, which worlds he is in.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ..communicator import Communicator
from ..errors import CollcommError, JoinRejected
from ..joining import advertised, join
from ..membership import Coordinator
from ..transports import format_address, host_identity, local_address_towards
from .calls import seconds_of

GRACE_SECONDS = 3.0  # a coordinator that dies with its rank does not come back
LEAVE_SECONDS = 1.0
FAREWELL_SECONDS = 60.0  # the coordinator serves those who have not left yet
POLL_SECONDS = 0.01
LOOPBACK = "127.0.0.1"
MAX_RECORD_BYTES = 1 << 20


@dataclass
class World:
    """``token`` names it, equally at all members. ``comm``: of all members, never called: its ranks stay what they were."""

    token: str
    comm: Communicator
    coordinator: Coordinator | None
    users: int = 0
    ended: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, ranks: list[int], tag: str) -> Communicator:
        """A communicator of ``ranks``, in this order; `give_back` ends it."""
        comm = self.comm.create_group(ranks, tag)
        with self.lock:
            self.users += 1
        return comm

    def give_back(self, comm: Communicator, takes_leave: bool) -> None:
        comm.close()
        with self.lock:
            self.users -= 1
        self.end_unless_used(takes_leave)

    def end_unless_used(self, takes_leave: bool) -> None:
        """Once, whoever asks."""
        with self.lock:
            if self.users or self.ended:
                return
            self.ended = True
        _worlds.pop(self.token, None)
        if takes_leave:
            self.comm.leave(LEAVE_SECONDS)
        else:
            self.comm.close()
        if self.coordinator is not None:
            dismiss(self.coordinator)


_worlds: dict[str, World] = {}  # by token
_farewells: list[threading.Thread] = []


def connect(
    store: Any, rank: int, size: int, name: str, timeout: timedelta
) -> tuple[Communicator, Callable[[bool], None]]:
    """The communicator of the ``size`` processes that call this with the same ``store`` and ``name``, by torch's ranks, and
    what ends it. Raises JoinRejected, CoordinatorUnavailable when they do not all come within ``timeout``."""
    meeting = _Meeting(store, rank, size, timeout)
    known = {token: world.comm.rank for token, world in _worlds.items() if not world.comm.closed}
    records = meeting.exchange("here", {"host": host_identity(), "worlds": known})
    common = sorted(set.intersection(*(set(record["worlds"]) for record in records)))
    if common:
        world = _worlds[common[0]]
        ranks = [int(record["worlds"][world.token]) for record in records]
    else:
        world, ranks = _make(meeting, len({record["host"] for record in records}) == 1)
    try:
        comm = world.take(ranks, f"{name}/{meeting.turn}")
    except BaseException:
        world.end_unless_used(False)
        raise
    return comm, lambda takes_leave: world.give_back(comm, takes_leave)


def _make(meeting: _Meeting, one_host: bool) -> tuple[World, list[int]]:
    """A new world of those who meet. Where no secret is configured, several hosts get a random one through the store."""
    coordinator, secret = None, None
    if meeting.rank == 0:
        token = secrets.token_hex(8)
        address = os.environ.get("COLLCOMM_COORDINATOR")
        if address is None:
            secret = None if one_host else fresh_secret()
            coordinator, address = _coordinate(meeting.store, one_host, secret)
        meeting.tell("world", {"token": token, "address": address, "secret": secret})
    try:
        told = meeting.hear("world")
        token = str(told["token"])
        comm = join(
            told["address"],
            group=f"torch-{token}",
            name=f"rank-{meeting.rank}",
            min_size=meeting.size,
            timeout=meeting.seconds_left,
            secret=told["secret"],
            on_failure="raise",
            grace=GRACE_SECONDS,
        )
    except BaseException:
        if coordinator is not None:
            coordinator.close()
        raise
    ranks = {member.name: rank for rank, member in enumerate(comm.view.members)}
    return adopt(token, comm, coordinator), [ranks[f"rank-{rank}"] for rank in range(meeting.size)]


def adopt(token: str, comm: Communicator, coordinator: Coordinator | None = None) -> World:
    """From now on, process groups find this world."""
    world = _worlds[token] = World(token, comm, coordinator)
    return world


def fresh_secret() -> str | None:
    """For ranks of several hosts; None where the environment configures what protects them."""
    configured = os.environ.get("COLLCOMM_SECRET") or os.environ.get("COLLCOMM_KEYS")
    return None if configured else secrets.token_urlsafe()


def _coordinate(store: Any, one_host: bool, secret: str | None) -> tuple[Coordinator, str]:
    """A coordinator here, and the address at which the others reach it."""
    host = LOOPBACK if one_host else own_address(store)
    coordinator = Coordinator(format_address(host, 0), secret=secret)
    return coordinator, coordinator.address


def own_address(store: Any) -> str:
    """Of the interface on the way to the store, which all ranks reach."""
    where = os.environ.get("COLLCOMM_ADVERTISE")
    if where:
        return advertised(where)[0]
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    towards = getattr(store, "host", None) or os.environ.get("MASTER_ADDR")
    if not towards:
        raise CollcommError(
            "the ranks are on several hosts, and neither a TCPStore nor MASTER_ADDR tells how they reach each other: set "
            "COLLCOMM_ADVERTISE to this host's address"
        )
    return local_address_towards(towards, 0)


def dismiss(coordinator: Coordinator) -> None:
    """Close it when all others have left, too; a process that ends meanwhile gives them a moment (`_take_leave`)."""
    name = "collcomm-torch-farewell"
    farewell = threading.Thread(target=_wait_and_close, args=(coordinator,), name=name, daemon=True)
    _farewells[:] = [thread for thread in _farewells if thread.is_alive()] + [farewell]
    farewell.start()


@atexit.register
def _take_leave() -> None:
    for farewell in _farewells:
        farewell.join(LEAVE_SECONDS)


def _wait_and_close(coordinator: Coordinator) -> None:
    until = time.monotonic() + FAREWELL_SECONDS
    while not coordinator.empty and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    coordinator.close()


class _Meeting:
    """What ranks tell each other through a store. ``turn``: how often they have met there before, equal at all."""

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta):
        self.store = store
        self.rank = rank
        self.size = size
        self.until = time.monotonic() + seconds_of(timeout, 1800.0)
        self.turn = store.add(f"collcomm/turn/{rank}", 1)

    @property
    def seconds_left(self) -> float:
        return max(0.1, self.until - time.monotonic())

    def tell(self, what: str, content: Any) -> None:
        self.store.set(f"collcomm/{self.turn}/{what}", json.dumps(content))

    def hear(self, what: str) -> Any:
        """Raises JoinRejected when nobody tells in time, or something else."""
        key = f"collcomm/{self.turn}/{what}"
        try:
            self.store.wait([key], timedelta(seconds=self.seconds_left))
            text = self.store.get(key)
        except RuntimeError as error:
            raise JoinRejected(
                f"waiting for {what!r} of the process group's ranks, through the store: {error}"
            ) from None
        if len(text) > MAX_RECORD_BYTES:
            raise JoinRejected(f"{what!r} in the store is {len(text)} bytes long: it is somebody else's")
        return json.loads(text)

    def exchange(self, what: str, content: Any) -> list[Any]:
        """Everybody's, by rank."""
        self.tell(f"{what}/{self.rank}", content)
        return [self.hear(f"{what}/{rank}") for rank in range(self.size)]
