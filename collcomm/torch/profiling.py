"""Operations as events of torch's profiler, from their call to their end, as torch's own backends show them."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .calls import NAME, Tensors
from .work import Pending


def is_on() -> bool:
    """Whether a profiler runs in this thread."""
    return bool(torch.autograd._profiler_enabled())


def recorded(what: str, tensors: Tensors, start: Callable[[], Pending]) -> Pending:
    """The work that ``start`` begins, as an event with the shapes of ``tensors`` that ends on the thread which sees its end."""
    event = torch.autograd._record_function_with_args_enter(f"{NAME}:{what}", *tensors)
    future = torch.futures.Future()
    record = torch.ops.profiler._call_end_callbacks_on_jit_fut._RecordFunction(event, future)
    try:
        work = start()
    except BaseException:
        future.set_result([])
        raise
    work.record_in(future, record)
    return work
