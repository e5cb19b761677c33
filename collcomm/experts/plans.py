"""Plans belong to a view: the ranks in them are its ranks.

A peer that dies inside a collective drops out, with its blocks, and the survivors finish it among themselves. For an exchange of
experts' tokens that is no result: what the dead was to compute is missing, and so may be the only copy of its experts. So all
survivors get `ViewChanged`, before anything is sent where the plan is of an older view, or after the call that the death hit;
their inputs are intact. They restore what is lost, say where the experts are now, and plan again from new counts. Views change
inside calls only, and equally for all members, so all of them raise at the same call, and none waits for the others. (With
``on_failure="raise"`` the call that a death hits raises `PeerLost` instead.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..communicator import Communicator
from ..errors import ViewChanged
from ..planner.experts import TokenExchange, dispatch, exchange

Array = npt.NDArray[Any]

CHANGE = "plan again from new counts, with homes for the experts among those who are here"


def plan_dispatch(
    comm: Communicator, counts: Sequence[int] | Array, home: Sequence[int], **options: Any
) -> TokenExchange:
    """Gather everybody's ``counts[expert]``, and plan where the tokens are computed. Every member calls it.

    :param counts: tokens of this rank, by expert.
    :param home: rank where each expert is at home.
    :param options: of `planner.experts.dispatch`: alpha, threshold, chunk; the same at all members.
    :raises ViewChanged: a member died meanwhile; ``comm.view`` shows who is left.
    """
    mine = np.ascontiguousarray(counts, np.int64)
    if mine.ndim != 1 or len(mine) != len(home):
        raise ValueError(f"counts must be one number for each of {len(home)} experts, not of shape {mine.shape}")
    epoch = comm.view.epoch
    table = comm.all_gather(mine)
    require_view(comm, epoch, "the counts")
    rows = table.reshape(comm.size, len(mine)).tolist()
    loads = [sum(column) for column in zip(*rows, strict=True)]
    return exchange(dispatch(loads, home, comm.size, epoch=epoch, **options), rows)


def require_plan(comm: Communicator, epoch: int, devices: int, what: str) -> None:
    """Before the first call of ``what``. Raises ViewChanged where the plan is of another view."""
    if epoch != comm.view.epoch:
        raise ViewChanged(f"{what}: the plan was made for view {epoch}, this is view {comm.view.epoch}; {CHANGE}")
    if devices != comm.size:
        raise ValueError(f"{what}: the plan is for {devices} ranks, the communicator has {comm.size}; {CHANGE}")


def require_view(comm: Communicator, epoch: int, what: str) -> None:
    """After a call of ``what`` that began in view ``epoch``. Raises ViewChanged where it ended in another."""
    if epoch != comm.view.epoch:
        raise ViewChanged(
            f"{what}: the membership changed on the way, from view {epoch} to view {comm.view.epoch} with {comm.size} members,"
            f" and blocks of those who are gone are missing; {CHANGE}. Inputs are intact"
        )
