"""Process groups that `torch.distributed._reconfigure` makes anew, with other members (torch 2.14 and later).

The program collects a handle of each rank that shall be in, by any way it likes, and all of these call with the same handles and
the same uuid. They meet at the coordinator of the first, and are a new world; the old one is closed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import torch.distributed as dist

from ..communicator import Communicator
from ..errors import (
    CollcommError,
    CollectiveTimeout,
    CommunicatorClosed,
    CoordinatorUnavailable,
    JoinRejected,
    PeerLost,
    ViewChanged,
)
from ..joining import join
from .errors import as_torch
from .handles import HandleText, Offer, in_order
from .innerbackend import provide_backend
from .processgroup import ProcessGroup, Release
from .work import Done, Futures
from .worlds import GRACE_SECONDS, LEAVE_SECONDS, World, adopt, dismiss

POLL_SECONDS = 0.005  # between the safe points at which those who come later are let in
HAS_INTERFACE = hasattr(dist.ProcessGroup, "reconfigure")  # from torch 2.14 on


class _Nobody:
    """Stands where a communicator will be. ``rank`` and ``size``: as the caller of `init_process_group` said."""

    view = None

    def __init__(self, rank: int, size: int):
        self.rank = rank
        self.size = size

    def close(self) -> None:
        """There is nothing to close."""


class ReconfigurableProcessGroup(ProcessGroup):
    """``comm``: None until the first reconfiguration. Rank and size follow each of them; one that fails leaves the group without
    a communicator, ready for the next. Also after `abort`, which withdraws the handle."""

    supports_reconfigure = True

    def __init__(
        self,
        comm: Communicator | None,
        timeout: timedelta,
        store: Any,
        release: Release | None = None,
        rank: int = 0,
        size: int = 1,
    ):
        nobody: Any = _Nobody(rank, size)
        super().__init__(comm or nobody, timeout, store, release)
        self._formed = comm is not None
        self._offer: Offer | None = None
        self._uuids: set[int] = set()
        self._destroyed = False

    def get_reconfigure_handle(self) -> str:
        """The same until it is used, which it can be once."""
        self._check_alive()
        if self._offer is None:
            self._offer = Offer(self._store)
        return self._offer.handle.text()

    def reconfigure(self, opts: Any) -> Done:
        """Returns when all are there; hints are not for us.

        Raises JoinRejected, and all is as it was, when the call itself is wrong. JoinRejected, CoordinatorUnavailable, PeerLost
        when the ranks do not all come within ``opts.timeout``, with the same arguments, and stay.
        """
        until = time.monotonic() + (self._seconds if opts.timeout is None else opts.timeout.total_seconds())
        try:
            self._check_alive()
            handles = in_order(opts.handles)
            rank = self._place_in(handles)
            _check_reach(handles)
            if opts.uuid in self._uuids:
                raise JoinRejected(
                    f"uuid {opts.uuid} was used by this group before: give each reconfiguration a new one"
                )
            self._uuids.add(opts.uuid)
            self._dissolve()
            self._form(handles, rank, opts.uuid, until)
        except CollcommError as error:
            raise as_torch(error) from None
        return Done([])

    def _place_in(self, handles: Sequence[HandleText]) -> int:
        own = self._offer.handle.id if self._offer is not None else None
        for rank, handle in enumerate(handles):
            if handle.id == own:
                return rank
        raise JoinRejected(
            f"the handle that this rank would be known by is not among the {len(handles)} given: a handle is valid once, so "
            f"collect get_reconfigure_handle() of all ranks anew before each reconfiguration"
        )

    def _dissolve(self) -> None:
        """What is in flight fails."""
        with self._closing:
            closed, self._closed = self._closed, True
        if not closed:
            self._release(False)
            self._futures.close()
        self._formed = False

    def _form(self, handles: Sequence[HandleText], rank: int, uuid: int, until: float) -> None:
        offer, self._offer = self._offer, None
        assert offer is not None
        try:
            if rank:
                offer.close()
            world, ranks = _meet(handles, rank, uuid, until)
        except BaseException:
            if offer.coordinator is not None:
                dismiss(offer.coordinator)  # the others have to hear that this rank leaves
            raise
        world.coordinator = offer.coordinator
        comm = world.take(ranks, "reconfigured")
        try:
            # Connections are made, so that deaths are noticed without the coordinator, too.
            comm.barrier(timeout=max(0.1, until - time.monotonic()))
        except BaseException:
            world.give_back(comm, False)
            raise
        self.comm, self._roll = comm, comm.view
        self._release = partial(world.give_back, comm)
        self._futures = Futures(f"collcomm-torch-{rank}")
        self._sequence = 0
        self._coalescing = None
        self._formed, self._closed = True, False
        provide_backend(self)
        known = dist.distributed_c10d._world.pg_group_ranks
        if self is dist.group.WORLD and self in known:
            known[self] = {each: each for each in range(self.comm.size)}

    def _check(self) -> None:
        self._check_alive()
        if not self._formed:
            raise as_torch(
                CommunicatorClosed(
                    f"the process group {self.group_name!r} has no members yet: collect get_reconfigure_handle() of all ranks, "
                    f"and have them all call torch.distributed._reconfigure"
                )
            )
        super()._check()

    def _check_alive(self) -> None:
        if self._destroyed:
            raise as_torch(CommunicatorClosed(f"the process group {self.group_name!r} was destroyed"))

    def shutdown(self) -> None:
        self._destroyed = True
        super().shutdown()

    def _end(self, takes_leave: bool) -> None:
        offer, self._offer = self._offer, None
        if offer is not None:
            offer.close()
        super()._end(takes_leave)


def _check_reach(handles: Sequence[HandleText]) -> None:
    if len({handle.host for handle in handles}) > 1 and handles[0].is_local:
        raise JoinRejected(
            f"the ranks are on several hosts, and only those on its own reach rank 0 ({handles[0].who}) at "
            f"{handles[0].address}: set COLLCOMM_ADVERTISE to its host's address there, or give the group a TCPStore on an "
            f"address that all reach"
        )


def _meet(handles: Sequence[HandleText], rank: int, uuid: int, until: float) -> tuple[World, list[int]]:
    """The world of those with these ``handles``, and their ranks in it, by their ranks here.

    The first to come is a group of one; the others are let in at its next safe point. So everybody knows who is there, and can
    say who is missing.
    """
    first = handles[0]
    digest = hashlib.sha256(f"{uuid} {' '.join(handle.id for handle in handles)}".encode()).hexdigest()[:16]
    meeting = _Meeting(handles, digest, until)
    try:
        comm = join(
            first.address,
            group=f"torch-{first.id}",
            name=meeting.names[rank],
            timeout=meeting.seconds_left,
            secret=first.secret,
            on_failure="raise",
            grace=GRACE_SECONDS,
        )
    except CoordinatorUnavailable as error:
        raise CoordinatorUnavailable(
            f"waiting for rank 0 ({first.who}) of {len(handles)}, whom all others meet at: {error}; it has died, its handle is "
            f"an old one, or others gave another first handle"
        ) from None
    try:
        meeting.wait_for_all(comm)
    except BaseException:
        with suppress(CollcommError):
            comm.leave(LEAVE_SECONDS)
        comm.close()
        raise
    found = {member.name: place for place, member in enumerate(comm.view.members)}
    return adopt(digest, comm), [found[name] for name in meeting.names]


class _Meeting:
    """``names``: by rank, as members are called who have the same handles and uuid."""

    def __init__(self, handles: Sequence[HandleText], digest: str, until: float):
        self._handles = handles
        self._digest = digest
        self._until = until
        self._seen: set[str] = set()  # also those who have given up since
        self._odd = ""  # who has come with other arguments
        self.names = [f"rank-{rank}/{digest}" for rank in range(len(handles))]

    @property
    def seconds_left(self) -> float:
        return max(0.1, self._until - time.monotonic())

    def wait_for_all(self, comm: Communicator) -> None:
        """Raises JoinRejected when one comes with other arguments, CoordinatorUnavailable when one does not, or dies."""
        while True:
            self._look_at(comm)
            if comm.size >= len(self.names):
                break
            if time.monotonic() > self._until:
                raise self._failed("its timeout is over")
            time.sleep(POLL_SECONDS)
            try:
                comm.step(timeout=self.seconds_left)
            except (CollectiveTimeout, CoordinatorUnavailable, PeerLost, ViewChanged) as error:  # others give up, too
                raise self._failed(str(error)) from None
        if self._odd:  # told when all are there, so that it is told to all
            raise self._failed("")

    def _look_at(self, comm: Communicator) -> None:
        for member in comm.view.members:
            self._seen.add(member.name)
            name, _, digest = member.name.partition("/")
            if digest != self._digest:
                self._odd = f"{name} ({member})"

    def _failed(self, why: str) -> CollcommError:
        if self._odd:
            return JoinRejected(
                f"this reconfiguration has failed: {self._odd} has come with another uuid, other handles, or another order: "
                f"all ranks give the same"
            )
        missing = ", ".join(
            f"rank {rank} ({handle.who})"
            for rank, (name, handle) in enumerate(zip(self.names, self._handles, strict=True))
            if name not in self._seen
        )
        who = f"of {len(self.names)} ranks have not come: {missing}" if missing else "all ranks had come"
        return CoordinatorUnavailable(
            f"this reconfiguration has failed: {who}; {why}; collect handles anew, of those who are left"
        )
