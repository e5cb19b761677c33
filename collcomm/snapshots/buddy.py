"""Each member's shard in the memory of the next one, while it computes; and whose shard is where when somebody has died.

    snapshots = Snapshots(comm)
    snapshots.recover()                      # founders and newcomers alike, before all else
    while step < total:
        ...                                  # gradients
        if snapshots.broken:                 # somebody has gone, or come: all see that at the same point
            found = snapshots.recover()      # everybody's own shard as it was at found.step
            taken = snapshots.take_over()    # and those of the dead, at whoever is to go on with them
        snapshots.take(step, shard)          # copied out, and sent in the background
        ...                                  # compute
        snapshots.wait()                     # once, before shard is written (it returns at once with copy="now")
        comm.step()

Copies in the background, one wait before the update: DataStates-LLM (arXiv 2406.10707). A copy in the memory of the next in the
ring: ElasWave. A snapshot goes through three stages: all tell its step and sizes (all_gather), shards go round (point to
point), all tell whether theirs has come whole (all_reduce). The next one begins behind that only. So there is always one that
is whole at all members, and never more than two are held of an owner. All this has links and a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..engine import Handle
from ..errors import CollcommError, CollectiveTimeout, PeerLost
from ..hostviews import Array
from .agreement import Agreement, Report, Ring, agree, loss, ring_of
from .handover import deliver
from .holdings import Copy, Holdings, Key
from .lane import Deadline, Members, Parcel, swap
from .shard import Layout, described, restored, written

COPIES = ("now", "later", "never")
DEFAULT_SECONDS = 120.0  # a shard of 1 GB takes as long at 70 Mbit/s
LONGEST = 2.5  # times the timeout: a snapshot has ended by then, well or badly
MOST_TURNS = 16  # of an agreement in which members die: each time one more


@dataclass(frozen=True)
class Shard:
    """What belonged to ``owner``, a member's name, at ``step``. ``arrays`` are new ones, of the kinds that the owner gave."""

    owner: str
    step: int
    arrays: dict[str, Any]
    meta: Any = None


@dataclass(frozen=True)
class Recovery:
    """What `Snapshots.recover` has found; but for ``own`` the same at all members.

    ``step``: of the snapshot that all go on from, None if there is none. ``own``: this member's shard at that step, None for a
    newcomer. ``orphans``: by the name of an owner who is not here any more, the name of the member that holds its shard.
    ``lost``: names of owners whose shard nobody holds.
    """

    step: int | None = None
    own: Shard | None = None
    orphans: dict[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()


class Snapshots:
    """Buddy copies over ``comm``. All members make the same calls of it, in the same order among their calls of ``comm``.

    :param copy: "now": `take` copies the shard before it returns. "later": it is copied in the background, and the caller
        writes to the arrays only when `wait` has returned. Of both this member keeps the copy, to go back to it. "never": it is
        sent from where it lies, with the same promise, and nothing is kept: the buddy's death is the loss of this shard, too.
    :param timeout: seconds from `take` until all members have called it and their shards have gone round; as long again to agree
        on that. A recovery may take as long.
    """

    def __init__(self, comm: Any, copy: str = "now", timeout: float = DEFAULT_SECONDS):
        if not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
        if copy not in COPIES:
            raise ValueError(f"copy must be one of {', '.join(COPIES)}, not {copy!r}")
        self._comm: Members = comm
        self._copy = copy
        self._timeout = timeout
        self._held = Holdings()
        self._lane: Members | None = None
        self._generation = 0
        self._rings: dict[int, Ring] = {}
        self._number = 0
        self._key: Key | None = None  # of the latest that is whole at all members
        self._step: int | None = None
        self._going: tuple[Handle, Parcel] | None = None
        self._free = threading.Event()  # the caller may write to the arrays given last
        self._free.set()
        self._failure: CollcommError | None = None  # of the ring, until the next recovery
        self._agreement: Agreement | None = None

    @property
    def broken(self) -> bool:
        """Whether the group is not the one that the ring was made for, so that `recover` is due. It changes inside calls of
        the communicator and of this object only, at all members alike."""
        return self._failure is not None or self._lane is None or set(self._comm.view.ids) != set(self._ids)

    @property
    def step(self) -> int | None:
        """Of the latest snapshot that is known here to be whole at all members; None if there is none."""
        return self._step

    @property
    def nbytes(self) -> int:
        """Of memory that copies take here."""
        return self._held.nbytes

    def take(self, step: int, shard: Mapping[str, Any], meta: Any = None) -> bool:
        """Send ``shard`` (name -> numpy array or CPU tensor, any strides) as it is now, with a small ``meta`` that msgpack can
        hold, to this member's buddy, in the background. Waits for the snapshot before, if that is still on its way. Returns
        whether this one was begun: not if a member was lost in the one before; the ring is ``broken`` then, at all members.

        :raises PeerLost: the ring was ``broken`` already; call `recover`.
        :raises CollectiveTimeout: the snapshot before has not got through; call `recover`.
        :raises CollectiveMismatch: members took snapshots of different steps.
        :raises TypeError: what is no array, or a dtype that cannot be sent; a meta that msgpack cannot hold.
        """
        if not isinstance(step, int | np.integer) or not 0 <= step < 2**62:
            raise ValueError(f"step must be a number that is not negative, not {step!r}")
        self._require_ring()
        layout, arrays = described(shard, meta)
        index = layout.encoded()
        self._finish(LONGEST * self._timeout)
        if self._failure is not None:
            return False
        assert self._lane is not None
        self._number += 1
        parcel, keep = self._packed(int(step), layout, index, arrays)
        if self._copy == "now":
            keep()
        else:
            self._free.clear()
        work = partial(self._send, self._lane, self._ids, parcel, keep if self._copy == "later" else None)
        self._going = self._lane.compose(work, f"snapshot of step {step}", async_op=True), parcel
        return True

    def wait(self, timeout: float | None = None) -> None:
        """Until the arrays given to `take` may be written: they are copied, or with copy="never" sent.

        :raises CollectiveTimeout: that took longer than ``timeout`` seconds; the arrays are still in use.
        """
        seconds = LONGEST * self._timeout if timeout is None else timeout
        if not self._free.wait(seconds):
            raise CollectiveTimeout(f"the shard has not been sent within {seconds:.3g} s; its arrays are still in use")

    def finish(self, timeout: float | None = None) -> int | None:
        """Wait for the snapshot on its way; returns the step of the latest one that is whole at all members.

        :raises CollectiveTimeout: it has not got through, or not within ``timeout`` seconds.
        :raises CollectiveMismatch: members took snapshots of different steps.
        """
        self._finish(LONGEST * self._timeout if timeout is None else timeout)
        return self._step

    def recover(self, partial: bool = False) -> Recovery:
        """Agree on the latest snapshot of which every shard is left, get this member's own, and make a ring of those who are
        here now. All members of the group call it, newcomers first of all. Older copies go; those of the agreed step stay
        until the new ring has a whole snapshot, so take one soon.

        :param partial: go on although shards are lost; the result names them.
        :raises ShardLost: of an owner and its buddy both are gone; at all members alike. The ring is made nevertheless.
        :raises PeerLost: members kept dying meanwhile; call it again.
        """
        self._settle(LONGEST * self._timeout)
        until = Deadline(self._timeout)
        for _ in range(MOST_TURNS):
            try:
                agreement = self._agree(until)
                if agreement is not None and self._return_own(agreement, until):
                    return self._recovered(agreement, partial)
            except PeerLost:
                continue  # at all survivors alike
        raise PeerLost("members died in each turn of a recovery; call recover() again")

    def take_over(self, takers: Mapping[str, str] | None = None) -> dict[str, Shard]:
        """Bring shards of the last recovery's step to members who are to go on with them. All members call it, with the same
        ``takers``: by name of an owner, who takes its shard. None: each orphan's goes to the member that holds it. Returns, by
        owner, those that this member takes, bit-identical.

        :raises ShardLost: nobody holds that shard.
        :raises PeerLost: a member has died meanwhile; call `recover`, and this again.
        :raises ValueError: a name that is no owner's, or no member's.
        """
        agreement = self._agreement
        if agreement is None or self._lane is None:
            raise CollcommError("take_over() follows recover()")
        self._finish(LONGEST * self._timeout)
        pairs = self._pairs(agreement, takers)
        if not self._deliver(agreement, pairs, Deadline(self._timeout)):
            raise PeerLost("a shard did not come: a member has died, or was late; call recover(), and this again")
        names = dict(agreement.ring)
        return {names[owner]: self._shard(agreement, owner) for owner, taker in pairs if taker == self._me}

    def close(self) -> None:
        """Let what is on its way end, and give memory and links back."""
        try:
            self._settle(LONGEST * self._timeout)
        finally:
            self._abandon()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()  # the others need not wait to hear of it

    # -- the snapshot on its way ----------------------------------------------------------------------------------------

    def _packed(
        self, step: int, layout: Layout, index: Array, arrays: list[Array]
    ) -> tuple[Parcel, Callable[[], None]]:
        """What goes to the buddy, and what copies the caller's arrays into it, if they are to be copied."""
        key = self._generation, self._number
        if self._copy == "never":
            rows = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays if array.nbytes]
            return Parcel(key, step, layout, index, rows, False), _nothing
        own = Copy(key, step, self._me, layout, self._held.room(layout.nbytes))

        def keep() -> None:
            written(layout, arrays, own.row)
            self._held.put(own)
            self._free.set()

        return Parcel(key, step, layout, index, [own.row] if own.row.nbytes else [], True), keep

    def _send(self, lane: Members, ids: tuple[int, ...], parcel: Parcel, keep: Callable[[], None] | None) -> bool:
        """In the background. Whether the snapshot is whole at all members."""
        try:
            if keep is not None:
                keep()
            if len(ids) == 1:
                return parcel.joined  # what is not kept is nowhere
            return swap(lane, ids, parcel, self._held, self._free.set, self._timeout)
        finally:
            self._free.set()

    @property
    def _me(self) -> int:
        return self._comm.view.ids[self._comm.rank]

    @property
    def _ids(self) -> tuple[int, ...]:
        return tuple(member for member, _ in self._rings[self._generation])

    def _require_ring(self) -> None:
        if self._lane is None:
            raise CollcommError("call recover() first: it makes the ring, at founders and newcomers alike")
        if self._failure is not None:
            raise self._failure
        if set(self._comm.view.ids) != set(self._ids):
            raise PeerLost(
                f"the group has changed (view {self._comm.view.epoch}): call recover() before the next snapshot"
            )

    def _finish(self, seconds: float) -> None:
        if self._going is None:
            return
        handle, parcel = self._going
        if not handle.wait(seconds):
            raise CollectiveTimeout(
                f"the snapshot of step {parcel.step} is not whole after {seconds:.3g} s; it goes on"
            )
        self._going = None
        assert self._lane is not None
        try:
            whole = handle.result()
        except PeerLost:
            whole = False
        except CollcommError as error:
            self._failure = error
            raise
        if whole:
            self._whole(parcel)
        if set(self._lane.view.ids) != set(self._ids):
            self._failure = PeerLost("a member of the ring has gone: call recover() before the next snapshot")
        elif not whole and len(self._ids) > 1:
            self._failure = CollectiveTimeout(f"the snapshot of step {parcel.step} did not get through: call recover()")
            raise self._failure

    def _settle(self, seconds: float) -> None:
        """As `_finish`; that it failed is what a recovery is for."""
        try:
            self._finish(seconds)
        except CollcommError:
            if self._going is not None:
                raise

    def _whole(self, parcel: Parcel) -> None:
        self._key, self._step = parcel.key, parcel.step
        self._held.keep_only(parcel.key)
        self._rings = {self._generation: self._rings[self._generation]}

    def _abandon(self) -> None:
        if self._lane is not None:
            self._lane.close()
        self._lane = self._going = None
        self._held = Holdings()

    # -- recovery -------------------------------------------------------------------------------------------------------

    def _agree(self, until: Deadline) -> Agreement | None:
        """Make the new ring; None where somebody has gone since they told what they hold."""
        held = tuple((copy.key, copy.step, copy.owner) for copy in self._held)
        report = Report(self._me, self._generation, self._rings, held)
        told = self._comm.all_gather_object(report.row, timeout=until.left + LONGEST * self._timeout)
        ids = self._comm.view.ids
        if self._lane is not None:  # whatever it was doing has ended, at all members
            self._lane.close()
            self._lane = None
        lane = self._comm.split(range(len(ids)))
        if self._comm.view.ids != ids:
            lane.close()
            return None
        agreement = agree([Report.of(row) for row in told])
        self._lane = lane
        self._held.keep_only(agreement.key)
        self._held.trim()
        self._key, self._step = agreement.key, agreement.step
        self._rings = {} if agreement.key is None else {agreement.key[0]: agreement.ring}
        self._generation, self._number = agreement.generation, 0
        self._rings[self._generation] = ring_of(self._comm.view)
        self._agreement, self._failure = agreement, None
        return agreement

    def _return_own(self, agreement: Agreement, until: Deadline) -> bool:
        """Owners who hold no copy of their own get it. Returns whether nobody died meanwhile."""
        here = self._comm.view
        lacking = [
            owner
            for owner, holders in agreement.holders.items()
            if here.rank_of(owner) is not None and owner not in holders
        ]
        return self._deliver(agreement, [(owner, owner) for owner in lacking], until)

    def _recovered(self, agreement: Agreement, partial: bool) -> Recovery:
        names = dict(agreement.ring)
        here = {member.id: member.name for member in self._comm.view.members}
        if agreement.lost and not partial:
            raise loss(agreement, list(here))
        orphans = {names[owner]: here[holders[0]] for owner, holders in agreement.holders.items() if owner not in here}
        own = self._shard(agreement, self._me) if self._me in agreement.holders else None
        return Recovery(agreement.step, own, orphans, tuple(names[owner] for owner in agreement.lost))

    def _shard(self, agreement: Agreement, owner: int) -> Shard:
        assert agreement.key is not None
        copy = self._held.find(agreement.key, owner)
        assert copy is not None
        return Shard(dict(agreement.ring)[owner], copy.step, restored(copy.layout, copy.row), copy.layout.meta)

    def _pairs(self, agreement: Agreement, takers: Mapping[str, str] | None) -> list[tuple[int, int]]:
        """Owner and taker, by id, in one order for all."""
        here = {member.name: member.id for member in self._comm.view.members}
        owners = {name: owner for owner, name in agreement.ring}
        if takers is None:
            gone = [owner for owner in agreement.holders if self._comm.view.rank_of(owner) is None]
            return [(owner, agreement.holders[owner][0]) for owner in gone]
        pairs = []
        for name, taker in sorted(takers.items()):
            if name not in owners:
                raise ValueError(f"{name!r} had no shard in the last snapshot; there were {sorted(owners)}")
            if taker not in here:
                raise ValueError(f"{taker!r}, who is to take over from {name}, is not here; there are {sorted(here)}")
            if owners[name] not in agreement.holders:
                raise loss(agreement, list(here.values()))
            pairs.append((owners[name], here[taker]))
        return pairs

    def _deliver(self, agreement: Agreement, pairs: Sequence[tuple[int, int]], until: Deadline) -> bool:
        assert self._lane is not None
        return deliver(self._lane, self._me, agreement, pairs, self._held, until, self._timeout)


def _nothing() -> None:
    """There is nothing to copy."""
