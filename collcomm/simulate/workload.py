"""The user's program of a simulation: random collectives on data that anybody can work out, each result compared.

Members agree on the number of the turn, run its operation, and step. Operations come from the turn's number, so that
all call the same; what fails must fail alike everywhere and leave inputs as they were.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..communicator import Communicator
from ..errors import CollcommError, CollectiveMismatch, CollectiveTimeout, PeerLost, StateDiverged

if TYPE_CHECKING:
    from .host import SimPeer

KINDS = (
    *("all_reduce", "all_reduce", "all_reduce", "all_gather", "reduce_scatter", "all_to_all"),
    *("broadcast", "reduce", "gather", "scatter", "sync", "sync", "split"),
)
CODED = "coded"  # an all_reduce with a codec; in no history unless asked for
ROWS = (1, 3, 40)
LONG_ROWS = 40_000  # more than travels inline
LONG_SHARE = 0.06
SHORT_SECONDS = 3.0
STATE_LOST = ("nobody has any state", "those who had it are gone")
TURNS_PER_VIEW = 10_000
UNIFORM = (PeerLost, CollectiveMismatch, CollectiveTimeout)
Array = np.ndarray[Any, Any]


def program(peer: SimPeer, comm: Communicator) -> None:
    """Turns without end."""
    state = np.zeros(64, np.int64)
    revision: int | None = None
    turn = 0
    while True:
        peer.idle()
        try:
            agreed = int(comm.all_reduce(np.array([turn], np.int64), op="max")[0])
            turn = max(agreed, comm.view.epoch * TURNS_PER_VIEW) + 1  # never one that dead members have run
            peer.ended(turn, 0, ("turn", comm.view.ids))
            revision = _one_turn(peer, comm, turn, state, revision)
            comm.step()
            peer.turns += 1
        except UNIFORM:
            pass  # at all survivors alike: they meet again at the next turn
        except StateDiverged as error:  # may be so where only newcomers have survived
            if not any(text in str(error) for text in STATE_LOST):
                raise AssertionError(f"{peer.name}: {error}") from error
            revision = None
        except CollcommError as error:  # evicted, or closed
            peer.dismissed = error
            return


def _one_turn(peer: SimPeer, comm: Communicator, turn: int, state: Array, revision: int | None) -> int | None:
    rng = random.Random(f"{peer.world.seed}/{turn}")
    kind = rng.choice(KINDS)
    known = int(comm.all_reduce(np.array([revision is not None], np.int64))[0])
    if not known:  # all are new, and begin with nothing
        state[:] = 0
        return turn
    if kind == "sync" or known < comm.size:  # whoever is new gets the state first
        report = comm.sync({"state": state}, revision)
        peer.synced(report.revision, state)
        return report.revision
    if kind == "split":
        _split(peer, comm, turn)
        return revision
    if kind == CODED:
        state += _coded(peer, comm, turn, rng)
    elif kind == "all_to_all" and turn % 2:
        state += _exchange(peer, comm, turn, rng.choice(ROWS))
    else:
        state += _collective(peer, comm, kind, turn, rng)
    return turn


@lru_cache(maxsize=64)
def _data(member: int, turn: int, rows: int) -> Array:
    data = (np.arange(rows, dtype=np.int64) * 7 + member * 31 + turn) % 1000
    data.flags.writeable = False
    return data


def _collective(peer: SimPeer, comm: Communicator, kind: str, turn: int, rng: random.Random) -> int:
    """Run it, compare the result with what numpy makes of the contributors' data; returns a number that is equal everywhere."""
    before = comm.view
    me = before.ids[comm.rank]
    rows = LONG_ROWS if rng.random() < LONG_SHARE else rng.choice(ROWS)
    root = before.ids[rng.randrange(before.size)]
    timeout = SHORT_SECONDS if rng.random() < 0.1 else None
    in_place = kind == "all_reduce" and rng.random() < 0.5
    blocked = kind in ("reduce_scatter", "all_to_all", "scatter")

    def given(member: int) -> Array:
        return _data(member, turn, rows * before.size if blocked else rows)

    def block(member: int, of: int) -> Array:
        rank = before.ids.index(of)
        return given(member)[rank * rows : (rank + 1) * rows]

    mine = given(me).copy()
    if turn % 3 == 0:  # in a table, as one of its columns
        table = np.zeros((mine.size, 3), mine.dtype)
        table[:, 1] = mine
        mine = table[:, 1]
    if peer.odd:
        peer.odd, mine = False, mine.astype(np.float32)
    kept = mine.copy()
    try:
        result = _call(comm, kind, mine, before.ids.index(root), me == root, rows, in_place, timeout)
    except UNIFORM as error:
        assert np.array_equal(mine, kept), f"turn {turn}: a {kind} that failed has changed its input"
        peer.ended(turn, 1, type(error).__name__)
        raise
    there = comm.view.ids
    peer.ended(turn, 1, (comm.view.epoch, there))
    assert me in there and set(there) <= set(before.ids)
    expected: Any = {
        "all_reduce": lambda: sum(given(member) for member in there),
        "reduce": lambda: sum(given(member) for member in there) if me == root else None,
        "all_gather": lambda: np.concatenate([given(member) for member in there]),
        "gather": lambda: np.concatenate([given(member) for member in there]) if me == root else None,
        "reduce_scatter": lambda: sum(block(member, me) for member in there),
        "all_to_all": lambda: np.concatenate([block(member, me) for member in there]),
        "broadcast": lambda: given(root),
        "scatter": lambda: block(root, me),
    }[kind]()
    if expected is None:
        assert result is None
    else:
        assert np.array_equal(result, expected), f"turn {turn}: {kind} in view {comm.view.epoch} {there} is wrong"
    if not in_place:
        assert np.array_equal(mine, kept), f"turn {turn}: a {kind} has changed its input"
    return sum(there) + turn


def _exchange(peer: SimPeer, comm: Communicator, turn: int, rows: int) -> int:
    """As `_collective`, with arrays of different sizes and strides for each peer."""
    before = comm.view
    me = before.ids[comm.rank]

    def given(sender: int, receiver: int) -> Array:
        return _data(sender + 7 * receiver, turn, (sender * 3 + receiver * 5 + turn) % 4 * rows)

    x = [np.repeat(given(me, other), 1 + rank % 2)[:: 1 + rank % 2] for rank, other in enumerate(before.ids)]
    out = [np.full((given(other, me).size, 2), -1) for other in before.ids]
    try:
        comm.all_to_all(x, out=[table[:, 1] for table in out])
    except UNIFORM as error:
        peer.ended(turn, 1, type(error).__name__)
        raise
    there = comm.view.ids
    peer.ended(turn, 1, (comm.view.epoch, there))
    for other, sent, table in zip(before.ids, x, out, strict=True):
        assert np.array_equal(sent, given(me, other)), f"turn {turn}: an exchange has changed its input"
        right = other not in there or np.array_equal(table[:, 1], given(other, me))
        assert right, f"turn {turn}: what {other} has sent is wrong"
        assert (table[:, 0] == -1).all(), f"turn {turn}: an exchange has written beside its arrays"
    return sum(there) + turn


def _coded(peer: SimPeer, comm: Communicator, turn: int, rng: random.Random) -> int:
    """As `_collective`, an all_reduce of numbers that half precision holds exactly, and so few that their sum is, too."""
    before = comm.view
    me = before.ids[comm.rank]
    rows = LONG_ROWS if rng.random() < LONG_SHARE else rng.choice(ROWS)
    timeout = SHORT_SECONDS if rng.random() < 0.1 else None
    in_place = rng.random() < 0.5

    def given(member: int) -> Array:
        return (_data(member, turn, rows) % 100).astype(np.float32)

    mine = given(me)
    codec = "f16"
    if peer.odd:
        peer.odd, codec = False, "bf16"  # right in a group of one
    try:
        result = comm.all_reduce(mine, out=mine if in_place else None, codec=codec, timeout=timeout)
    except UNIFORM as error:
        assert np.array_equal(mine, given(me)), f"turn {turn}: a coded all_reduce that failed has changed its input"
        peer.ended(turn, 1, type(error).__name__)
        raise
    there = comm.view.ids
    peer.ended(turn, 1, (comm.view.epoch, there))
    assert me in there and set(there) <= set(before.ids)
    right = np.array_equal(result, sum(given(member) for member in there))
    assert right, f"turn {turn}: coded all_reduce in view {comm.view.epoch} {there} is wrong"
    return sum(there) + turn


def _call(
    comm: Communicator,
    kind: str,
    mine: Array,
    root: int,
    is_root: bool,
    rows: int,
    in_place: bool,
    timeout: float | None,
) -> Any:
    if kind == "all_reduce":
        return comm.all_reduce(mine, out=mine if in_place else None, timeout=timeout)
    if kind == "scatter":
        source = mine if is_root else None
        return comm.scatter(source, root=root, out=np.empty(rows, mine.dtype), timeout=timeout)
    if kind in ("broadcast", "reduce", "gather"):
        return getattr(comm, kind)(mine, root=root, timeout=timeout)
    return getattr(comm, kind)(mine, timeout=timeout)


def _split(peer: SimPeer, comm: Communicator, turn: int) -> None:
    """A sub-group of the even ranks; its operations survive deaths, too."""
    chosen = list(range(0, comm.size, 2))
    part = comm.split(chosen)
    if part is not None:
        members = part.view.ids
        total = part.all_reduce(np.array([comm.view.ids[comm.rank]], np.int64))
        there = part.view.ids
        assert set(there) <= set(members)
        assert int(total[0]) == sum(there), f"turn {turn}: a sub-group of {members} made {total} of {there}"
        peer.ended(turn, 2, (part.view.epoch, there))
        part.close()
