"""From torch 2.14 on: what C++ finds where it asks a process group for its backend.

`torch.ops.c10d` and what is built on it do not call a group's methods, but those of the Backend registered for a tensor's device.
Here that is a Python object, which hands everything to the group.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

_Backend: Any = torch._C._distributed_c10d.Backend
HAS_PYTHON_BACKENDS = hasattr(_Backend, "options")  # else methods of a Python subclass are never called
OPERATIONS = (
    "allreduce",
    "allreduce_coalesced",
    "allreduce_sparse",
    "reduce",
    "broadcast",
    "allgather",
    "allgather_coalesced",
    "all_gather_single",
    "all_gather_single_coalesced",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_single_coalesced",
    "gather",
    "gather_single",
    "scatter",
    "alltoall",
    "all_to_all_single",
    "barrier",
    "send",
    "recv",
    "recv_anysource",
)


def provide_backend(group: Any) -> None:
    """Register one for each device of ``group``, where this torch can call it."""
    if not HAS_PYTHON_BACKENDS:
        return
    backend = InnerBackend(group)
    for device in group._device_types:
        group._register_backend(device, dist.ProcessGroup.BackendType.CUSTOM, backend)
    group._set_default_backend(dist.ProcessGroup.BackendType.CUSTOM)


class InnerBackend(_Backend):
    """Belongs to ``group``, which keeps it alive, and not the other way round."""

    supports_splitting = supports_time_estimate = supports_shrinking = False
    supports_coalescing = True

    def __init__(self, group: Any):
        super().__init__(group.rank(), group.size())
        self._group = weakref.ref(group)

    @property
    def group(self) -> Any:
        group = self._group()
        if group is None:
            raise RuntimeError("the process group of this backend is gone")
        return group

    @property
    def options(self) -> Any:
        return self.group.options

    def getBackendName(self) -> str:
        name: str = self.group.getBackendName()
        return name

    def start_coalescing(self) -> None:
        self.group._start_coalescing()

    def end_coalescing(self) -> Any:
        return self.group._end_coalescing()

    def set_timeout(self, timeout: Any) -> None:
        self.group.set_timeout(timeout)

    def monitored_barrier(self, opts: Any, wait_all_ranks: bool = False) -> None:
        unset = opts.timeout.total_seconds() <= 0
        self.group.monitored_barrier(None if unset else opts.timeout, wait_all_ranks)

    def _get_sequence_number_for_group(self) -> int:
        number: int = self.group._get_sequence_number_for_group()
        return number

    def _set_sequence_number_for_group(self) -> None:
        self.group._set_sequence_number_for_group()

    def abort(self) -> None:
        self.group.abort()

    def shutdown(self) -> None:
        self.group.shutdown()


def _handed_on(name: str) -> Callable[..., Any]:
    def operation(self: InnerBackend, *arguments: Any) -> Any:
        return getattr(self.group, name)(*arguments)

    operation.__name__ = name
    return operation


for _name in OPERATIONS:
    setattr(InnerBackend, _name, _handed_on(_name))
