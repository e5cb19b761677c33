"""What callers of a process group's operations hand over: tensors or lists of them, options or what stands in their place."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

Tensors = Sequence[Any]  # of tensors, or lists of them
NAME = "collcomm"  # of the backend
SUM = dist.ReduceOp.SUM
# ``opts`` is an options object of torch's, None, one of the values that it would hold (an operator, a root, a timeout), or a
# pair of any of these and a timeout.


def listed(tensors: Any) -> list[Any]:
    """A list of tensors; one alone may come without."""
    return list(tensors) if isinstance(tensors, list | tuple) else [tensors]


def op_of(opts: Any) -> Any:
    opts = opts[0] if isinstance(opts, tuple) else opts
    if opts is None or isinstance(opts, timedelta):
        return SUM
    return getattr(opts, "reduceOp", opts)


def root_of(opts: Any) -> int:
    return int(getattr(opts, "rootRank", opts if isinstance(opts, int) else 0))


def seconds_of(opts: Any, otherwise: float) -> float:
    """The timeout that ``opts`` tells, ``otherwise`` where it tells none."""
    for found in reversed(opts) if isinstance(opts, tuple) else (opts,):
        timeout = found if isinstance(found, timedelta) else getattr(found, "timeout", None)
        if timeout is not None:
            seconds: float = timeout.total_seconds()
            if seconds > 0:
                return seconds
    return otherwise


def runs_behind(opts: Any) -> bool:
    """Whether the caller goes on meanwhile. What comes without options is waited for by its handle."""
    opts = opts[0] if isinstance(opts, tuple) else opts
    return bool(getattr(opts, "asyncOp", True))
