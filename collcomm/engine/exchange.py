"""An all_to_all of blocks of different sizes through the windows of members that share a host.

No rank knows how much the others have for each other, so this is no schedule: each rank puts its whole input, block by block
of what a slot holds, into its own window, before the first the edges of its pieces; the others take theirs out of it.

(1) After the signal for the first block everybody reads everybody's edges and number of blocks, and with each block what part of
the input it is. So all find the same number of blocks, the largest of all, and signal equally often.
(2) A slot is written again two blocks later. By then the writer has waited for everybody's signal of the block in between,
which each gave after it had read this one. The slot of the first block was last read before the last signals of the
operation before.
(3) The operation ends with the commit round: all have read all by then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

import numpy as np

from .attempt import Attempt, Mismatch
from .original import Original
from .request import Request
from .windowplan import CELL_ALIGNMENT, SLOT_BYTES
from .windows import SharedWindows

_WORD = 8


@dataclass(frozen=True)
class Exchange:
    """Where the pieces begin and end, in bytes, by rank of the view: of the input, and of the output."""

    algorithm: ClassVar[str] = "exchange"
    sends: tuple[int, ...]
    receives: tuple[int, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each buffer."""
        return {"in": self.sends[-1], "out": self.receives[-1]}


def make_exchange(request: Request, alive: Sequence[int]) -> Exchange:
    """For a view whose members are the ranks ``alive`` of the call's view."""
    width = request.dtype.itemsize
    sends, receives = (
        tuple(accumulate((counts[rank] * width for rank in alive), initial=0))
        for counts in (request.sends, request.receives)
    )
    return Exchange(sends, receives)


def run_exchange(
    exchange: Exchange,
    windows: SharedWindows,
    buffers: Mapping[str, Any],
    attempt: Attempt,
    incoming: Original | None,
    outgoing: Original | None,
) -> None:
    """``incoming`` and ``outgoing``: where the input is to be fetched from, and who hears of the output. Raises Halted,
    Mismatch, LinkBroken."""
    rank, size, edges = attempt.rank, attempt.size, exchange.sends
    head = -(-_WORD * (size + 4) // CELL_ALIGNMENT) * CELL_ALIGNMENT
    room = SLOT_BYTES - head
    borders = [*range(0, edges[-1], room), edges[-1]] if incoming is None else incoming.borders(room)
    begins, ends = [0] * size, [0] * size
    block, blocks = 0, max(1, len(borders) - 1)
    while block < blocks:
        first, last = borders[block : block + 2] if block + 1 < len(borders) else (0, 0)
        cell = windows.cell(rank, block)
        cell[: _WORD * (size + 4)].view(np.int64)[:] = (*edges, max(1, len(borders) - 1), first, last)
        if first < last:
            _put(cell[head : head + last - first], buffers["in"], first, last, incoming)
        windows.signal()
        for other in (rank, *windows.others):
            if other != rank:
                windows.wait(other, block + 1, attempt)
            cell = windows.cell(other, block)
            theirs = cell[: _WORD * (size + 4)].view(np.int64).tolist()
            if not block:
                begins[other], ends[other] = theirs[rank], theirs[rank + 1]
                if ends[other] - begins[other] != exchange.receives[other + 1] - exchange.receives[other]:
                    raise Mismatch
                blocks = max(blocks, theirs[size + 1])
            first, last = theirs[size + 2 :]
            low, high = max(begins[other], first), min(ends[other], last)
            if low < high:
                place = exchange.receives[other] + low - begins[other]
                _take(cell[head + low - first : head + high - first], buffers["out"], place, outgoing)
        attempt.check()
        block += 1
    windows.pass_over(block)


def _put(cell: Any, source: Any, first: int, last: int, incoming: Original | None) -> None:
    if incoming is None:
        cell[:] = source[first:last]
    else:
        incoming.fetch_into(cell, first)


def _take(cell: Any, target: Any, place: int, outgoing: Original | None) -> None:
    if outgoing is None:
        target[place : place + cell.size] = cell
    else:
        outgoing.deliver(place, cell)
