"""Small operations: everything that they need travels in the openings' records, and each rank computes its result from them.

A record is a head of 8 bytes and a payload. Reductions run in the order of ranks, by numpy, so all ranks get the same bits for
every dtype and op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...transports.mpi import Opening
from ..operation import Operation
from ..request import EVEN_KINDS, Request

Array = np.ndarray[Any, Any]
HEAD_BYTES = 8
RECORD_BYTES = 256  # an all-gather of so much takes no longer than one of 8 bytes
RECORD_BYTES_OF_MANY = 64
MANY_RANKS = 32
DATALESS_KINDS = frozenset({"barrier", "split", "sync"})


def record_bytes(size: int) -> int:
    return RECORD_BYTES if size <= MANY_RANKS else RECORD_BYTES_OF_MANY


def fits(request: Request, size: int) -> bool:
    """Whether ``request`` goes into the records of ``size`` ranks. Depends only on what all ranks have in common."""
    if request.kind in DATALESS_KINDS:
        return True
    room = (record_bytes(size) - HEAD_BYTES) // request.dtype.itemsize
    if request.kind in EVEN_KINDS:
        return request.size <= room
    if request.kind == "all_to_all":
        return 0 < request.size <= room
    if request.kind in ("all_gather", "gather"):
        return max(request.counts) <= room
    return sum(request.counts) <= room


class Packed:
    """One request in one view, as rank ``me`` of the ranks ``alive`` of the call's view."""

    def __init__(self, request: Request, alive: Sequence[int], me: int, base_epoch: int, openings: Sequence[Opening]):
        self.fingerprint = request.fingerprint
        self.base_epoch = base_epoch
        self._kind = request.kind
        self._dtype = request.dtype
        self._me = me
        self._n = len(alive)
        self._root = alive.index(request.root) if request.root >= 0 else 0
        self._counts = [request.counts[rank] for rank in alive] if request.counts else []
        self._gives = request.kind not in DATALESS_KINDS and (
            request.kind not in ("broadcast", "scatter") or self._root == me
        )
        self._has_result = request.kind not in ("reduce", "gather") or self._root == me
        given, taken, first = self._sizes(request)
        item = request.dtype.itemsize
        self._taken = taken
        self._slots = [opening.record[HEAD_BYTES : HEAD_BYTES + given * item].view(self._dtype) for opening in openings]
        start = HEAD_BYTES + first * item
        self._rows: list[list[Array]] = []
        for opening in openings:
            if self._kind in ("all_gather", "gather"):
                sizes = self._counts
            else:
                sizes = [given if self._kind in EVEN_KINDS else self._block(request)] * self._n
            self._rows.append(
                [
                    row[start : start + size * item].view(self._dtype)
                    for row, size in zip(opening.rows, sizes, strict=True)
                ]
            )
        self.conclude: Callable[[int, Operation], Array | None] = getattr(self, f"_{_HOW[request.kind]}")

    def _block(self, request: Request) -> int:
        if self._kind == "all_to_all":
            return request.sends[0]
        return self._counts[self._me] if self._counts else 0

    def _sizes(self, request: Request) -> tuple[int, int, int]:
        """Elements that a giver gives, elements of a result, and where in a record the result's part begins."""
        kind, counts, me = self._kind, self._counts, self._me
        if kind in EVEN_KINDS:
            return request.size, request.size, 0
        if kind in ("reduce_scatter", "scatter"):
            return sum(counts), counts[me], sum(counts[:me])
        if kind in ("all_gather", "gather"):
            return counts[me], sum(counts), 0
        if kind == "all_to_all":
            block = request.sends[0]
            return block * self._n, block * self._n, block * me
        return 0, 0, 0

    def fill(self, turn: int, operation: Operation) -> None:
        source = operation.source
        if self._gives and source is not None:
            slot = self._slots[turn]
            slot[:] = (
                source if source.size == slot.size else operation.surviving_blocks(operation.alive(operation.view))
            )

    # -- results, from the records of opening ``turn`` ------------------------------------------------------------------

    def _out(self, operation: Operation) -> Array:
        if operation.target is not None:
            return operation.target[: self._taken]
        return np.empty(self._taken, self._dtype)

    def _reduced(self, turn: int, operation: Operation) -> Array | None:
        if not self._has_result:
            return None
        ufunc, out, rows = operation.ufunc, operation.target, self._rows[turn]
        if out is None or out.size != self._taken:
            out = self._out(operation)
        if self._n == 1:
            out[:] = rows[0]
        else:
            assert ufunc is not None
            ufunc(rows[0], rows[1], out)
            if self._n > 2:
                for row in rows[2:]:
                    ufunc(out, row, out)
        operation.finish(out, self._n)
        return out

    def _gathered(self, turn: int, operation: Operation) -> Array | None:
        if not self._has_result:
            return None
        out = self._out(operation)
        np.concatenate(self._rows[turn], out=out)
        return out

    def _spread(self, turn: int, operation: Operation) -> Array | None:
        out = self._out(operation)
        if not (operation.in_place and self._gives):
            out[:] = self._rows[turn][self._root]
        return out

    def _nothing(self, turn: int, operation: Operation) -> Array | None:
        return None


_HOW = {
    **dict.fromkeys(("all_reduce", "reduce", "reduce_scatter"), "reduced"),
    **dict.fromkeys(("all_gather", "gather", "all_to_all"), "gathered"),
    **dict.fromkeys(("broadcast", "scatter"), "spread"),
    **dict.fromkeys(DATALESS_KINDS, "nothing"),
}
