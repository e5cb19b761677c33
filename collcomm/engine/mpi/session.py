"""One rank's membership of an MPI job: what `Session` is over the network, with MPI in place of agent and coordinator."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

import numpy as np

from ...clock import SYSTEM
from ...errors import CollcommError, CollectiveTimeout, CommunicatorClosed, JoinRejected, PeerLost
from ...transports import host_identity
from ...transports.device import Device
from ...transports.mpi import Comm, CommFailed
from ...transports.mpilinks import MpiTransport
from ...types import Member, TrafficPlan, View
from ..fate import SharedFate
from ..group import STATE_GID, WORLD_GID
from .group import MpiGroup
from .recovery import within

NAME_BYTES = 512  # of UTF-8: 128 characters
HOST_BYTES = 256
WATCH_SECONDS = 0.05
FLUSH_SECONDS = 2.0  # for messages that their receivers have not taken yet
SPLIT_SECONDS = 60.0  # making a communicator among living ranks takes milliseconds


class NoCoordinator:
    """What stands in for the agent: nobody waits to join, and leaving is agreed among the members."""

    pending = 0
    coordinator_silent_for = 0.0

    def __init__(self, session: MpiSession):
        self._session = session

    def leave(self, deadline: float) -> None:
        world = self._session.groups[WORLD_GID]
        world.queue.run(lambda: lambda: world.leave(deadline), "leave")


class MpiSession(SharedFate[MpiGroup]):
    """``world``: all ranks of the job. Collective: all ranks make theirs at the same time."""

    def __init__(self, world: Comm, name: str, raise_on_loss: bool):
        super().__init__()
        self.clock = SYSTEM
        self.device: Device | None = None  # set by who knows of one; arrays there go through host memory
        self.transport = MpiTransport()
        self.agent = NoCoordinator(self)
        self.member = world.rank
        self.raise_on_loss = raise_on_loss
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None
        try:
            self._base = world.duplicate()  # links of the world; nobody revokes it, so smaller groups come of it, too
            self.view = View(1, self._introduce(name))
            ranks = {rank: rank for rank in range(world.size)}
            for gid in (WORLD_GID, STATE_GID):
                self.transport.wire(gid, self._base.duplicate() if gid else self._base, ranks)
                self.groups[gid] = MpiGroup(self, gid, self.view, world.duplicate())
        except CommFailed as failed:
            raise PeerLost(f"a rank of the MPI job has died while the group formed: {failed}") from None
        if world.survives:
            self._watcher = threading.Thread(target=self._keep_watch, name="collcomm-mpi-watch", daemon=True)
            self._watcher.start()

    @classmethod
    def form(cls, world: Comm, name: str, raise_on_loss: bool, deadline: float) -> MpiSession:
        """With all ranks, before ``deadline``. Raises CollectiveTimeout, JoinRejected, PeerLost."""
        try:
            session: MpiSession = within(deadline, lambda: cls(world, name, raise_on_loss))
        except TimeoutError:
            raise CollectiveTimeout("not all ranks of the MPI job have called join() in time") from None
        return session

    def _introduce(self, name: str) -> tuple[Member, ...]:
        """All tell their names and options. Raises JoinRejected."""
        record = np.zeros(NAME_BYTES + HOST_BYTES + 1, np.uint8)
        for start, text in ((0, name), (NAME_BYTES, f"{os.uname().nodename}\n{host_identity()}")):
            data = np.frombuffer(text.encode()[:HOST_BYTES] if start else text.encode(), np.uint8)
            record[start : start + data.size] = data
        record[-1] = self.raise_on_loss
        rows = self._base.gather_bytes(record)
        if len(set(rows[:, -1].tolist())) > 1:
            raise JoinRejected("the ranks do not agree on on_failure: give all of them the same")
        members = []
        for rank, row in enumerate(rows):
            own = row[:NAME_BYTES].tobytes().rstrip(b"\0").decode()
            host, _, host_id = row[NAME_BYTES:-1].tobytes().rstrip(b"\0").decode(errors="ignore").partition("\n")
            members.append(Member(rank, own, host, 0, host_id))
        names = [member.name for member in members]
        if double := {name for name in names if names.count(name) > 1}:
            raise JoinRejected(f"several ranks are called {', '.join(sorted(double))}: names are unique in a group")
        return tuple(members)

    # -- for the communicators ----------------------------------------------------------------------------------------

    def world(self) -> MpiGroup:
        return self.groups[WORLD_GID]

    def make_group(self, gid: int, members: Sequence[int], epoch_view: View) -> MpiGroup:
        """A communicator of some members of ``epoch_view``; they alone call it. Raises PeerLost."""
        found = epoch_view.choose(members)
        ranks = [member.id for member in found]

        def make() -> tuple[Comm, Comm]:
            comm = self._base.subset(ranks, gid)
            return comm, comm.duplicate()

        try:
            comm, wire = within(time.monotonic() + SPLIT_SECONDS, make)
        except (CommFailed, TimeoutError) as failed:
            raise PeerLost(f"the group of {', '.join(m.name for m in found)} could not be made: {failed}") from None
        self.transport.wire(gid, wire, {member: rank for rank, member in enumerate(ranks)})
        with self._lock:
            group = self.groups[gid] = MpiGroup(self, gid, View(epoch_view.epoch, tuple(found)), comm)
            if self.failure is not None:
                group.progress.fail(self.failure)
            return group

    def release(self, group: MpiGroup) -> None:
        group.release()
        self.transport.drop_group(group.gid)

    def wait_admission(self, view: View, deadline: float) -> View:
        raise AssertionError("nobody waits to join an MPI job")

    def offer(self, view: View) -> TrafficPlan | None:
        return None  # MPI knows its links

    def adopted(self, group: MpiGroup, view: View) -> None:
        """``group`` has a new view."""
        if group.gid == WORLD_GID:
            self.view = view
            if self.events is not None:
                self.events.adopted(self.member, view)

    def _keep_watch(self) -> None:
        """Where ranks may die: MPI's own collectives end at their deadline, since revoking their communicator makes them fail;
        and a communicator that another rank has revoked is settled also by those who do not use it now, since the others
        may wait for that, and they for the others, in another communicator."""
        while not self._closed.wait(WATCH_SECONDS):
            for group in list(self.groups.values()):
                try:
                    if 0.0 < group.running_until < time.monotonic():
                        group.comm.revoke()
                    elif group.comm.is_revoked() and group.queue.idle:
                        threading.Thread(target=group.help, name="collcomm-mpi-help", daemon=True).start()
                except CommFailed:
                    pass  # it is being replaced

    def abandon(self, why: str) -> None:
        """This rank stopped in the middle of an operation."""
        self.close(CommunicatorClosed(f"{why}; this peer has left the group, start the job again"))

    def close(self, error: CollcommError | None = None) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            self._closed.set()
        if self.failure is None:
            for group in self.groups.values():
                group.say_leaving()
        self.fail(error or CommunicatorClosed("this communicator was closed; an MPI job cannot be joined again"))
        for group in list(self.groups.values()):
            group.queue.close()
        if self._watcher is not None:
            self._watcher.join()
        self.transport.flush(FLUSH_SECONDS)
        self.transport.close()
        if self.events is not None:
            self.events.close()

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far; of MPI's own collectives, the input and the result."""
        return self.transport.traffic()
