"""The data phase of a plan of messages, by whichever executor suits it."""

from __future__ import annotations

from .attempt import Attempt
from .inline import run_inline
from .operation import Operation, Scratch
from .plan import Plan
from .streaming import run_streaming


def run_messages(plan: Plan, operation: Operation, scratch: Scratch, attempt: Attempt) -> None:
    """Raises Halted, Mismatch, LinkBroken."""
    inline = plan.inline and not attempt.striped
    piecewise = not inline and plan.saves  # what is fetched and saved, is when its turn has come
    operation.bind(plan.sizes, scratch, fetches=piecewise)
    undo = operation.undo
    if undo is not None and not piecewise:
        undo.save_all()
    buffers, dtype, ufunc = operation.buffers, operation.request.dtype, operation.ufunc
    if inline:
        run_inline(plan, buffers, dtype, ufunc, attempt)
    else:
        staged = operation.unfetched if piecewise else {}, operation.early
        run_streaming(plan, buffers, dtype, ufunc, attempt, undo, *staged)
