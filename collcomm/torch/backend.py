"""Makes torch.distributed know the backend."""

from __future__ import annotations

from datetime import timedelta
from functools import wraps
from typing import Any

import torch.distributed as dist

from ..errors import CollcommError
from .calls import NAME
from .dispatch import use_methods
from .dynamo import leave_alone
from .elasticgroup import ElasticProcessGroup, Membership, is_elastic
from .errors import as_torch
from .innerbackend import HAS_PYTHON_BACKENDS
from .processgroup import ProcessGroup
from .reconfigure import HAS_INTERFACE, ReconfigurableProcessGroup
from .reductions import use_kernels
from .worlds import connect

DEVICES = ["cpu", "cuda"]


def register() -> None:
    """Harmless when done twice."""
    if hasattr(dist.Backend, NAME.upper()):
        return
    dist.Backend.register_backend(NAME, create, extended_api=True, devices=DEVICES)
    use_kernels()
    for kind in (ProcessGroup, ElasticProcessGroup, ReconfigurableProcessGroup):
        leave_alone(kind)
    if not HAS_PYTHON_BACKENDS:
        use_methods()
    _admit_monitored_barrier()


def create(options: Any, backend_options: Any) -> ProcessGroup:
    """Called by torch.distributed at each rank of a new group."""
    if isinstance(backend_options, Membership):
        return ElasticProcessGroup(backend_options.comm, options.timeout)
    if is_elastic():
        raise RuntimeError(
            "torch.distributed.new_group needs ranks that stay what they are: in an elastic run, call run.comm.split(ranks)"
        )
    rank, size = options.group_rank, options.group_size
    if getattr(options, "enable_reconfigure", False):
        return ReconfigurableProcessGroup(None, options.timeout, options.store, rank=rank, size=size)
    try:
        comm, release = connect(options.store, rank, size, options.group_id, options.timeout)
    except CollcommError as error:
        raise as_torch(error) from None
    kind = ReconfigurableProcessGroup if HAS_INTERFACE else ProcessGroup
    return kind(comm, options.timeout, options.store, release)


def _admit_monitored_barrier() -> None:
    """`torch.distributed.monitored_barrier` lets no group but Gloo's pass, by name; ours has one of its own."""
    module = dist.distributed_c10d
    original = module.monitored_barrier

    @wraps(original)
    def monitored_barrier(group: Any = None, timeout: Any = None, wait_all_ranks: bool = False) -> Any:
        chosen = module._get_default_group() if group is None and module.is_initialized() else group
        if not isinstance(chosen, ProcessGroup):
            return original(group, timeout, wait_all_ranks)
        seconds = timedelta(seconds=timeout) if isinstance(timeout, int | float) else timeout
        return chosen.monitored_barrier(seconds, wait_all_ranks)

    module.monitored_barrier = dist.monitored_barrier = monitored_barrier
