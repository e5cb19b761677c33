"""Operations whose data moves after their opening: MPI's own collectives where they mean the same, else a schedule of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...planner import choose
from ...transports.mpi import Comm, is_native
from ..attempt import Attempt
from ..group import make_plan
from ..messages import run_messages
from ..operation import Operation, Scratch
from ..plan import Plan
from ..request import Request

Array = np.ndarray[Any, Any]
REDUCTIONS = frozenset({"all_reduce", "reduce", "reduce_scatter"})


def is_scheduled(request: Request) -> bool:
    return request.kind in REDUCTIONS and not is_native(request.op, request.dtype)


class Native:
    """One request in one view, by MPI's collective of that name."""

    def __init__(self, request: Request, alive: Sequence[int], me: int, base_epoch: int, reversible: bool):
        self.fingerprint = request.fingerprint
        self.base_epoch = base_epoch
        self._request = request
        self._me = me
        self._reversible = reversible
        self._root = alive.index(request.root) if request.root >= 0 else 0
        self._counts = [request.counts[rank] for rank in alive] if request.counts else []
        self._sends = [request.sends[rank] for rank in alive] if request.sends else []
        self._receives = [request.receives[rank] for rank in alive] if request.receives else []
        self._run = getattr(self, f"_{request.kind}")

    def run(self, comm: Comm, operation: Operation, scratch: Scratch) -> Array | None:
        """The flat result; nothing of the input is lost when it fails, if the job survives failures."""
        if self._reversible and operation.in_place:
            operation.keep_input(scratch)
        result: Array | None = self._run(comm, operation)
        return result

    def _input(self, operation: Operation) -> Array:
        return operation.surviving_blocks(operation.alive(operation.view))

    @staticmethod
    def _out(operation: Operation, count: int) -> Array:
        if operation.target is not None:
            return operation.target[:count] if operation.target.size != count else operation.target
        return np.empty(count, operation.request.dtype)

    def _all_reduce(self, comm: Comm, operation: Operation) -> Array:
        source, op = operation.source, self._request.op
        assert source is not None
        out = self._out(operation, source.size)
        comm.all_reduce(source, out, op)
        return out

    def _reduce(self, comm: Comm, operation: Operation) -> Array | None:
        source, op = operation.source, self._request.op
        assert source is not None
        out = self._out(operation, source.size) if self._me == self._root else None
        comm.reduce(source, out, op, self._root)
        return out

    def _reduce_scatter(self, comm: Comm, operation: Operation) -> Array:
        out = self._out(operation, self._counts[self._me])
        comm.reduce_scatter(self._input(operation), out, self._counts, self._request.op)
        return out

    def _all_gather(self, comm: Comm, operation: Operation) -> Array:
        out = self._out(operation, sum(self._counts))
        comm.all_gather(self._input(operation), out, self._counts)
        return out

    def _gather(self, comm: Comm, operation: Operation) -> Array | None:
        out = self._out(operation, sum(self._counts)) if self._me == self._root else None
        comm.gather(self._input(operation), out, self._counts, self._root)
        return out

    def _scatter(self, comm: Comm, operation: Operation) -> Array:
        out = self._out(operation, self._counts[self._me])
        comm.scatter(self._input(operation) if self._me == self._root else None, out, self._counts, self._root)
        return out

    def _broadcast(self, comm: Comm, operation: Operation) -> Array:
        source = operation.source
        assert source is not None
        out = self._out(operation, source.size)
        if self._me == self._root and out is not source:
            out[:] = source
        comm.broadcast(out, self._root)
        return out

    def _all_to_all(self, comm: Comm, operation: Operation) -> Array:
        out = self._out(operation, sum(self._receives))
        comm.all_to_all(self._input(operation), out, self._sends, self._receives, self._request.size > 0)
        return out


class Scheduled:
    """One request in one view, by a schedule over messages."""

    def __init__(self, request: Request, alive: Sequence[int], rank: int, base_epoch: int):
        self.fingerprint = request.fingerprint
        self.base_epoch = base_epoch
        self._place = (request, alive, rank)
        self._plans: dict[bool, Plan] = {}

    def run(self, operation: Operation, scratch: Scratch, attempt: Attempt) -> Array | None:
        plan = self._plans.get(operation.in_place)
        if plan is None:
            request, alive, rank = self._place
            choice = choose(request.kind, len(alive), request.nbytes())
            plan = self._plans[operation.in_place] = make_plan(request, choice, alive, rank, operation.in_place)
        run_messages(plan, operation, scratch, attempt)
        return operation.result
