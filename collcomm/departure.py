"""Members who go at a safe point: the others know who they are, and hear of the view without them, before they go on.

Somebody has said in the words of the safe point (`safepoint`) that it leaves, so all members come here: one small all_gather
tells who. Those leave; the others wait for the view without them and meet in it once, so that all go on in the same view.
Whoever dies meanwhile, or does not get its leave through, is out by the usual path, a little later.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from .clock import Clock
from .errors import PeerLost
from .types import View

HEAR_SECONDS = 6.0  # the others wait no longer: a leave that gets through at all takes 5 s at most


class Parting(Protocol):
    """What this needs of a `Communicator`."""

    @property
    def view(self) -> View: ...

    @property
    def latest(self) -> View: ...

    def all_gather(self, x: np.ndarray, *, timeout: float | None) -> np.ndarray: ...

    def barrier(self, *, timeout: float | None) -> None: ...

    def leave(self) -> None: ...

    def await_without(self, members: set[int], until: float) -> None: ...


def settle(comm: Parting, leaving: bool, timeout: float | None, clock: Clock) -> None:
    """Every member calls it. ``leaving``: whether this one goes; then it has left afterwards. ``timeout``: seconds for each of
    two small operations. Raises their errors."""
    said = comm.all_gather(np.array([leaving], np.uint8), timeout=timeout)
    going = {comm.view.ids[rank] for rank in np.flatnonzero(said)}
    if leaving:
        comm.leave()
        return
    comm.await_without(going, clock.monotonic() + HEAR_SECONDS)
    met_with_them = any(member in going for member in comm.latest.ids)
    try:
        comm.barrier(timeout=timeout)
    except PeerLost:
        if not met_with_them:  # else it is they who are gone, which all know
            raise
