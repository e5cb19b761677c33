"""How a request runs in one view: in the openings' records, by MPI's own collective, or by a schedule of ours."""

from __future__ import annotations

from collections.abc import Sequence

from ..request import Request
from .large import Native, Scheduled, is_scheduled
from .packed import Packed, fits
from .turns import Turns

Program = Packed | Native | Scheduled


def make_program(
    request: Request, alive: Sequence[int], rank: int, base_epoch: int, turns: Turns, survives: bool
) -> Program:
    """As ``rank`` of the ranks ``alive`` of the call's view, whose epoch is ``base_epoch``. ``survives``: the input must outlast
    a failure."""
    if fits(request, len(alive)):
        return Packed(request, alive, rank, base_epoch, turns.openings)
    if is_scheduled(request):
        return Scheduled(request, alive, rank, base_epoch)
    return Native(request, alive, rank, base_epoch, survives)
