"""Shards from those who hold them to those who go on with them, after a recovery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import PeerLost
from .agreement import Agreement
from .holdings import Copy, Holdings
from .lane import JOINED, Deadline, Members, all_came, taken


def deliver(
    lane: Members,
    me: int,
    agreement: Agreement,
    pairs: Sequence[tuple[int, int]],
    held: Holdings,
    until: Deadline,
    seconds: float,
) -> bool:
    """Bring shards to takers, for each of ``pairs`` (owner, taker: ids) one after the other; ``me`` is this member's id. Returns
    whether all have come, the same at all members; takers are holders then. ``seconds``: for what all tell at the end."""
    if not pairs:
        return True

    def move() -> None:
        for owner, taker in pairs:
            _deliver_one(lane, me, agreement, owner, taker, held, until)

    if not all_came(lane, move, until, seconds):
        return False
    for owner, taker in pairs:
        holders = agreement.holders[owner]
        agreement.holders[owner] = holders if taker in holders else (*holders, taker)
    return True


def _deliver_one(
    lane: Members, me: int, agreement: Agreement, owner: int, taker: int, held: Holdings, until: Deadline
) -> None:
    assert agreement.key is not None and agreement.step is not None
    holders = agreement.holders[owner]
    holder = taker if taker in holders else holders[0]
    if holder == taker or me not in (holder, taker):
        return
    there = lane.view.rank_of(taker if me == holder else holder)
    if there is None:
        raise PeerLost("a member of the recovery has gone")
    words = np.empty(2, np.int64)
    if me == holder:
        copy = held.find(agreement.key, owner)
        assert copy is not None
        index = copy.layout.encoded()
        words[:] = index.nbytes, copy.row.nbytes
        for array in (words, index, copy.row) if copy.row.nbytes else (words, index):
            lane.send(array, there, timeout=until.left)
    else:
        lane.recv(words, there, timeout=until.left)
        layout, row = taken(lane, there, (int(words[0]), int(words[1]), JOINED), held, until)
        held.put(Copy(agreement.key, agreement.step, owner, layout, row))
