"""Training with torch over a membership that changes: deaths cost no step, and newcomers take part from the next one on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from ..communicator import Communicator
from ..errors import PeerLost, StateDiverged
from ..joining import DEFAULT_OPERATION_SECONDS, join
from ..types import View
from .dataparallel import ElasticDataParallel
from .elasticgroup import initialise
from .sampler import ViewSampler
from .sharedstate import SharedState, Stateful, arrays_of

log = logging.getLogger("collcomm.torch")


def elastic(
    coordinator: str | None = None, *, op_timeout: float = DEFAULT_OPERATION_SECONDS, **options: Any
) -> Elastic:
    """Join a group, and make it the default group of torch.distributed. Takes the arguments of `collcomm.join` and raises its
    errors. Make model and optimizer before: from here on, the others wait.

        run = collcomm.torch.elastic("host:48148", min_size=4)
        net = run.replicate(model)
        run.share(model=model, optimizer=optimizer)
        for step in run.steps(1000):
            loss(net(x), y).backward()
            ...
    """
    comm = join(coordinator, op_timeout=op_timeout, **options)
    try:
        return Elastic(comm, timedelta(seconds=op_timeout))
    except BaseException:
        comm.close()
        raise


class Elastic:
    """This peer's part in a run. ``group``: the process group; ``comm``: the communicator underneath; ``revision``: steps that
    the shared state has seen."""

    def __init__(self, comm: Communicator, timeout: timedelta):
        self.comm = comm
        self.group = initialise(comm, timeout)
        self.revision = 0
        self._has_state = False
        self._known: frozenset[int] = frozenset()  # members that hold the state
        self._parts: dict[str, Stateful] = {}
        self._replicas: list[ElasticDataParallel] = []

    @property
    def rank(self) -> int:
        return self.comm.rank

    @property
    def size(self) -> int:
        return self.comm.size

    @property
    def view(self) -> View:
        return self.comm.view

    def __enter__(self) -> Elastic:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(takes_leave=kind is None)

    def replicate(self, module: torch.nn.Module, **options: Any) -> ElasticDataParallel:
        """``module`` with its gradients averaged over the members; ``options`` of DistributedDataParallel."""
        replica = ElasticDataParallel(self.group, module, **options)
        self._replicas.append(replica)
        return replica

    def sampler(self, data: Any, batch_size: int, shuffle: bool = True, seed: int = 0) -> ViewSampler:
        """See `ViewSampler`. It is shared."""
        sampler = ViewSampler(self.group, data, batch_size, shuffle, seed)
        self.share(**{f"sampler {len(self._parts)}": sampler})
        return sampler

    def share(self, **parts: Stateful) -> None:
        """What newcomers are to have as the others have it: anything with state_dict and load_state_dict. Under the same names at
        all peers, before `steps`."""
        taken = sorted(set(parts) & set(self._parts))
        if taken:
            raise ValueError(f"{', '.join(taken)} is shared already")
        self._parts |= parts

    def steps(self, until: int | None = None) -> Iterator[int]:
        """The numbers of the steps from where the group is on; `step` is called at the end of each turn. The first turn of all
        begins with rank 0's state, a newcomer's with that of the others."""
        self.settle()
        while until is None or self.revision < until:
            yield self.revision
            self.revision += 1
            self.step()

    def step(self) -> View:
        """A safe point, at which every member arrives with the same state: those who wait come in, and get it."""
        view = self.comm.step()
        self.group.refresh()
        if not set(view.ids) <= self._known:
            self.settle()
        return self.view

    def settle(self) -> None:
        """Everybody has the shared state, bit by bit, and replicas begin anew."""
        while True:
            try:
                self._settle()
                break
            except PeerLost as lost:  # whoever told of the form of the state: another one does
                log.info("sharing the state begins anew: %s", lost)
        self._has_state = True
        self._known = frozenset(self.view.ids)
        self.group.refresh()
        for replica in self._replicas:
            replica.renew()

    def _settle(self) -> None:
        """Raises PeerLost where it has to begin anew."""
        revisions = self.comm.all_gather_object(self.revision if self._has_state else -1)
        newest = max(revisions)
        donor = self.view.ids[revisions.index(newest)]
        mine = self.view.ids[self.rank] == donor
        has_state = self._has_state if newest >= 0 else mine
        for replica in self._replicas:
            replica.share_buffers(self._rank_of(donor))
        state = SharedState(self._parts)
        form = self.comm.broadcast_object(state.encoded() if mine else None, root=self._rank_of(donor))
        if not has_state:
            state.adopt(form)
        self.revision = max(newest, 0)
        lent = state.lend()
        try:
            report = self.comm.sync(arrays_of(lent), self.revision if has_state else None)
        except StateDiverged as diverged:
            log.warning(
                "members do not have the same bits, those of rank %s are taken: %s", self._rank_of(donor), diverged
            )
            report = self.comm.sync(arrays_of(lent), self.revision if mine else None)
        if report.changed or not has_state:
            for one in lent:
                one.give_back()
            state.restore()

    def _rank_of(self, member: int) -> int:
        rank = self.view.rank_of(member)
        if rank is None:
            raise PeerLost("the member whose state was to be taken is gone")
        return rank

    def close(self, takes_leave: bool = True) -> None:
        """Leave the group; the others go on. Harmless when done twice."""
        if dist.is_initialized() and dist.group.WORLD is self.group:
            if not takes_leave:
                self.group.abort()
            dist.destroy_process_group()


__all__ = ["Elastic", "elastic"]
