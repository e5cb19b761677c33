"""Shards on their way, over a communicator of their own: round a ring to everybody's buddy, or from one member to another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import CollectiveMismatch, CollectiveTimeout, PeerLost
from ..hostviews import Array
from ..types import View
from .holdings import Copy, Holdings, Key
from .shard import MOST_BYTES, MOST_INDEX_BYTES, Layout, pieces

JOINED, APART = 0, 1  # the arrays come as one message, or each as one
LEAST_SECONDS = 0.001  # for what is begun when the deadline has passed


class Members(Protocol):
    """What is needed of a `collcomm.Communicator`."""

    @property
    def view(self) -> View: ...

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_gather(self, x: Any, *, timeout: float | None = None) -> Any: ...

    def all_reduce(self, x: Any, op: str = "sum", *, timeout: float | None = None) -> Any: ...

    def all_gather_object(self, value: Any, *, timeout: float | None = None) -> list[Any]: ...

    def send(self, x: Any, dst: int, *, async_op: bool = False, timeout: float | None = None) -> Any: ...

    def recv(self, out: Any, src: int, *, timeout: float | None = None) -> Any: ...

    def compose(self, work: Callable[[], Any], text: str = "a call", async_op: bool = False) -> Any: ...

    def split(self, ranks: Sequence[int]) -> Any: ...

    def close(self) -> None: ...


class Deadline:
    """So many seconds from now."""

    def __init__(self, seconds: float):
        self._until = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; a moment when it has passed, in which an operation can still fail as operations do."""
        return max(LEAST_SECONDS, self._until - time.monotonic())


@dataclass(frozen=True)
class Parcel:
    """This member's shard as it goes to its buddy. ``rows``: one for all arrays, or one for each that is not empty."""

    key: Key
    step: int
    layout: Layout
    index: Array
    rows: Sequence[Array]
    joined: bool


def swap(
    lane: Members, ring: tuple[int, ...], parcel: Parcel, held: Holdings, sent: Callable[[], None], seconds: float
) -> bool:
    """Give ``parcel`` to the next of ``ring``, by id, and hold what comes from the one before. Returns whether all members hold
    whole copies now, the same at all of them. ``sent`` is called when the caller's arrays are needed no more.

    :raises CollectiveMismatch: members took snapshots of different steps; at all of them.
    """
    until = Deadline(seconds)
    form = JOINED if parcel.joined else APART
    words = [*parcel.key, parcel.step, parcel.index.nbytes, parcel.layout.nbytes, form]
    told = np.asarray(lane.all_gather(np.array([words], np.int64), timeout=until.left))
    if set(lane.view.ids) != set(ring):
        return False
    _check_steps(lane.view, told)
    return all_came(lane, lambda: held.put(_pass_on(lane, ring, told, parcel, held, sent, until)), until, seconds)


def all_came(lane: Members, move: Callable[[], object], until: Deadline, seconds: float) -> bool:
    """Whether ``move`` has come to its end at all members, the same at all of them: it has not where a peer was lost or time was
    up. ``seconds``: beyond ``until``, for what all tell. What else it raises here is raised when the others know."""
    problem: Exception | None = None
    whole = True
    try:
        move()
    except (PeerLost, CollectiveTimeout):
        whole = False
    except Exception as error:
        whole, problem = False, error
    agreed = lane.all_reduce(np.array([whole], np.int64), op="min", timeout=until.left + seconds)
    if problem is not None:
        raise problem
    return bool(agreed[0])


def _check_steps(view: View, told: Array) -> None:
    for member, words in zip(view.members, told, strict=True):
        if (words[:3] != told[0][:3]).any():
            raise CollectiveMismatch(
                f"{view[0].name} took snapshot {told[0][1]}, of step {told[0][2]}, and {member.name} snapshot {words[1]}, "
                f"of step {words[2]}; all members call take() for the same steps"
            )


def _pass_on(
    lane: Members,
    ring: tuple[int, ...],
    told: Array,
    parcel: Parcel,
    held: Holdings,
    sent: Callable[[], None],
    until: Deadline,
) -> Copy:
    place = ring.index(lane.view.ids[lane.rank])
    owner = ring[place - 1]
    ahead, behind = lane.view.rank_of(ring[(place + 1) % len(ring)]), lane.view.rank_of(owner)
    assert ahead is not None and behind is not None
    going = [lane.send(row, ahead, async_op=True, timeout=until.left) for row in (parcel.index, *parcel.rows)]
    going[-1].add_done_callback(lambda _: sent())
    try:
        _, _, step, index_bytes, nbytes, form = (int(word) for word in told[behind])
        layout, row = taken(lane, behind, (index_bytes, nbytes, form), held, until)
    finally:
        for handle in going:  # it may still read the caller's arrays
            handle.wait(2 * until.left)
    for handle in going:
        handle.result(LEAST_SECONDS)
    return Copy(parcel.key, step, owner, layout, row)


def taken(
    lane: Members, source: int, announced: tuple[int, int, int], held: Holdings, until: Deadline
) -> tuple[Layout, Array]:
    """A shard that rank ``source`` sends, of ``announced`` (bytes of its description, bytes, form)."""
    index_bytes, nbytes, form = announced
    if not (0 < index_bytes <= MOST_INDEX_BYTES and 0 <= nbytes <= MOST_BYTES and form in (JOINED, APART)):
        raise CollectiveMismatch(f"{lane.view[source].name} announces a shard of {nbytes} bytes, which cannot be")
    index = np.empty(index_bytes, np.uint8)
    lane.recv(index, source, timeout=until.left)
    layout = Layout.decoded(index)
    if layout.nbytes != nbytes:
        raise CollectiveMismatch(f"{lane.view[source].name} announced {nbytes} bytes and describes {layout.nbytes}")
    row = held.room(nbytes)
    try:
        for part in [row] if form == JOINED and nbytes else pieces(layout, row):
            lane.recv(part, source, timeout=until.left)
    except BaseException:
        held.give_back(row)
        raise
    return layout, row
