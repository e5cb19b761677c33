"""torch.compile does not look into process groups: what they do is not to be traced, but done."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType
from typing import Any

import torch

_eval_frame = torch._C._dynamo.eval_frame


def leave_alone(kind: type[Any]) -> None:
    """The methods of ``kind``, and whatever these call, run as they are in compiled programs, too, where torch can be told."""
    if not hasattr(_eval_frame, "_FrameExecStrategy"):
        return
    skip = _eval_frame._FrameAction.SKIP
    for code in _codes(kind):
        _eval_frame.set_code_exec_strategy(code, _eval_frame._FrameExecStrategy(skip, skip))


def _codes(kind: type[Any]) -> Iterator[CodeType]:
    for value in vars(kind).values():
        function = value.fget if isinstance(value, property) else value
        if isinstance(function, FunctionType):
            yield function.__code__
