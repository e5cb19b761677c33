"""DistributedDataParallel over a membership that changes."""

# No annotations from the future here: DistributedDataParallel looks at those of its hooks.

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .elasticgroup import ElasticProcessGroup


def average(group: ElasticProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """A communication hook for DistributedDataParallel: the mean of the gradients of those who contributed, also when that are
    fewer than there were when the step began."""
    options = dist.AllreduceOptions()
    options.reduceOp = dist.ReduceOp.AVG
    work = group.allreduce([bucket.buffer()], options)
    return work.get_future().then(lambda future: future.value()[0])


class ElasticDataParallel(torch.nn.Module):
    """``module`` as a replica among the members of ``group``. ``options``: of DistributedDataParallel.

    A death during a step leaves that step complete over the survivors. Newcomers have other buckets than the old members, so
    `renew` makes everybody begin anew when somebody has come.
    """

    def __init__(self, group: ElasticProcessGroup, module: torch.nn.Module, **options: Any):
        super().__init__()
        if not {"process_group", "init_sync"}.isdisjoint(options):
            raise ValueError("process_group and init_sync are not for the caller: the run sees to both")
        self.module = module
        self._group = group
        self._options = options
        self._replica: list[DistributedDataParallel] = []  # not a submodule: it holds `module`, too

    def share_buffers(self, root: int) -> None:
        """Buffers are ``root``'s, as they would be after the next forward; not if they are each replica's own."""
        if not self._options.get("broadcast_buffers", True):
            return
        options = dist.BroadcastOptions()
        options.rootRank, options.asyncOp = root, False
        with self._group.among_replicas():
            for buffer in self.module.buffers():
                self._group.broadcast([buffer], options)

    def renew(self) -> None:
        """Everybody does it at the same step."""
        for replica in self._replica:
            replica._remove_autograd_hooks()
        self._replica.clear()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        with self._group.among_replicas():
            return self._wrapped()(*inputs, **named)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients are accumulated and not averaged meanwhile."""
        with self._wrapped().no_sync():
            yield

    def _wrapped(self) -> DistributedDataParallel:
        if not self._replica:
            options = {"process_group": self._group, "init_sync": False, **self._options}
            wrapped = DistributedDataParallel(self.module, **options)
            wrapped.register_comm_hook(self._group, average)
            self._replica.append(wrapped)
        return self._replica[0]
