"""A process group whose membership changes: rank and size follow the view, and no death fails an operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import torch.distributed as dist

from ..communicator import Communicator
from ..errors import PeerLost
from . import collectives
from .calls import NAME, Tensors, listed, root_of
from .processgroup import ProcessGroup


class Membership:
    """``pg_options`` of `init_process_group` for a communicator that has been joined already."""

    def __init__(self, comm: Communicator):
        self.comm = comm


class ElasticProcessGroup(ProcessGroup):
    """Operations that a death interrupts are run again over the survivors: AVG divides by who contributed. `refresh` tells torch
    of a new view."""

    def __init__(self, comm: Communicator, timeout: timedelta):
        super().__init__(comm, timeout, release=self._part)
        self._replicas = False

    def _part(self, takes_leave: bool) -> None:
        if takes_leave:
            self.comm.leave()
        else:
            self.comm.close()

    def _check(self) -> None:
        """Who has gone is no reason to end."""
        self._check_open()

    def refresh(self) -> None:
        """What torch notes of a group's ranks is what they are now."""
        ranks = dist.distributed_c10d._world.pg_group_ranks
        if self in ranks:
            ranks[self] = {rank: rank for rank in range(self.comm.size)}

    @contextmanager
    def among_replicas(self) -> Iterator[None]:
        """Meanwhile, what is broadcast is as good at any other rank: where the root dies, its successor's is taken."""
        before, self._replicas = self._replicas, True
        try:
            yield
        finally:
            self._replicas = before

    def broadcast(self, tensors: Any, opts: Any = None, timeout: Any = None) -> Any:
        if not self._replicas:
            return super().broadcast(tensors, opts, timeout)
        tensors = listed(tensors)
        self._begin()
        body = partial(self._broadcast_from_anybody, tensors, root_of(opts))
        return self._run("broadcast", (opts, timeout), body, tensors)

    def _broadcast_from_anybody(self, tensors: Tensors, root: int, seconds: float) -> None:
        for _ in range(self.comm.size):
            try:
                collectives.broadcast(self.comm, tensors, min(root, self.comm.size - 1), seconds)
                return
            except PeerLost:
                continue  # all survivors see the same


def is_elastic() -> bool:
    """Whether the default group is one."""
    return dist.is_initialized() and isinstance(dist.group.WORLD, ElasticProcessGroup)


def initialise(comm: Communicator, timeout: timedelta) -> ElasticProcessGroup:
    """Make ``comm`` the default group of torch.distributed."""
    dist.init_process_group(
        NAME,
        store=dist.HashStore(),
        rank=comm.rank,
        world_size=comm.size,
        timeout=timeout,
        pg_options=Membership(comm),
    )
    group: ElasticProcessGroup = dist.group.WORLD
    return group
