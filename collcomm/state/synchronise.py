"""`Synchroniser`: make arrays bit-identical at all members, moving only what differs.

    1. All claim: revision, lineage, hash of everything. Equal everywhere: done, no state has moved.
    2. `vote.elect` decides whose content wins.
    3. All exchange the hashes of their chunks; `transfer.plan_transfer` assigns each chunk that a laggard lacks to one of
       the holders, evenly.
    4. The chunks travel by all_to_all, in rounds of bounded size; laggards hash what has arrived.
    5. From 1. again, until all claim the same.

A death in between ends the turn: the survivors begin again at 1. with what they have by then. What has arrived whole is kept:
its hash is that of the elected content, so no later turn fetches it again. Holders are never written, so nothing that the
majority holds can get lost on the way. A laggard gives up its vote when it is first written to: the mixture that it holds
from then on is nobody's state.

A chunk that does not have the hash which its donor claimed was changed since (by failing memory, or by a user who writes to
arrays that are not his for now). Its receiver says so with its next claim; the donor then hashes everything again and claims
what it really has: it is outvoted and served by the others, if there are such.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..errors import StateDiverged
from ..types import View
from .digest import DIGEST_BYTES, Claim, Content
from .transfer import ROUND_BYTES, Transfer, plan_transfer
from .vote import Election, elect

EXTRA_TURNS = 4  # turns beyond one per member that may die meanwhile
_RECORD = np.dtype([("revision", "<i8"), ("lineage", "<i8"), ("suspect", "<i8"), ("schema", "V16"), ("root", "V16")])


class Group(Protocol):
    """What is needed of a communicator."""

    @property
    def view(self) -> View: ...

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_gather(self, x: Any) -> Any: ...

    def all_to_all(self, x: Any, out: Any = None, *, send_counts: Any, recv_counts: Any) -> Any: ...


@dataclass
class SyncReport:
    """``changed``: this peer's arrays were overwritten; ``donors``: names of those it got chunks from; byte counts are of
    state, without hashes and headers. ``laggards``: names of all whose arrays were not the elected ones; ``outvoted``:
    those among them that had a vote, so are corrupted or went ahead alone."""

    revision: int = -1
    changed: bool = False
    bytes_received: int = 0
    bytes_sent: int = 0
    chunks_received: int = 0
    turns: int = 0
    seconds: float = 0.0
    donors: set[str] = field(default_factory=set)
    laggards: set[str] = field(default_factory=set)
    outvoted: set[str] = field(default_factory=set)


@dataclass
class Standing:
    """What one peer's vote is founded on, from one sync to the next. ``lineage``: the revision it last synced at."""

    lineage: int = -1


def as_revision(revision: int | None) -> int:
    """-1 for None, which says that a peer has nothing. Raises ValueError."""
    if revision is None:
        return -1
    if not isinstance(revision, int | np.integer) or not 0 <= revision < 2**62:
        raise ValueError(f"revision must be a number that is not negative, or None, not {revision!r}")
    return int(revision)


def synchronise(comm: Group, state: Mapping[str, Any], revision: int | None, standing: Standing) -> SyncReport:
    """Every member calls it at the same point. Raises StateDiverged, at every member, where no majority holds the same
    content; ValueError for arrays that cannot be shared."""
    return Synchroniser(comm, Content(state), as_revision(revision), standing).run()


class Synchroniser:
    """One call of one member."""

    round_bytes = ROUND_BYTES

    def __init__(self, comm: Group, content: Content, revision: int, standing: Standing):
        self.report = SyncReport()
        self._comm = comm
        self._content = content
        self._revision = revision
        self._standing = standing
        self._suspect = -1
        if revision < 0:  # who says that he has nothing has no vote, whatever he had before
            standing.lineage = -1

    def run(self) -> SyncReport:
        began = time.monotonic()
        report = self.report
        self._content.rehash()
        turns = self._comm.size + EXTRA_TURNS
        for turn in range(turns):
            report.turns = turn + 1
            claims = self._exchange_claims()
            if claims is None:
                continue
            election = elect(claims)
            self._note(claims, election)
            if not election.laggards:
                self._content.write_back()
                self._standing.lineage = report.revision = election.revision
                report.seconds = time.monotonic() - began
                return report
            self._transfer(election)
        raise StateDiverged(f"the state is not equal after {turns} turns; peers write to their arrays, or keep dying")

    def _exchange_claims(self) -> list[Claim] | None:
        """What all claim, by rank; None when they have to be made again."""
        comm, content = self._comm, self._content
        view = comm.view
        record = np.zeros(1, _RECORD)
        record[0] = (
            self._revision,
            self._standing.lineage,
            self._suspect,
            content.schema_digest,
            content.root,
        )
        gathered = comm.all_gather(record.view(np.uint8))
        if comm.view is not view:
            return None
        rows = gathered.view(_RECORD)
        self._suspect = -1
        suspects = {int(suspect) for suspect in rows["suspect"]} & set(view.ids)
        if view.ids[comm.rank] in suspects:
            content.rehash()
        if suspects:
            return None  # those under suspicion have looked again what they have
        return [
            Claim(
                member.name, int(row["revision"]), int(row["lineage"]), row["schema"].tobytes(), row["root"].tobytes()
            )
            for member, row in zip(view.members, rows, strict=True)
        ]

    def _note(self, claims: Sequence[Claim], election: Election) -> None:
        self.report.laggards |= {claims[rank].name for rank in election.laggards}
        self.report.outvoted |= {claims[rank].name for rank in election.outvoted}

    def _transfer(self, election: Election) -> None:
        """Bring the laggards the chunks that they lack, or some of them if the view changes meanwhile."""
        comm, content, me = self._comm, self._content, self._comm.rank
        view = comm.view
        hashes = comm.all_gather(content.hashes.reshape(-1))
        if comm.view is not view:
            return
        table = hashes.reshape(comm.size, len(content.chunks), DIGEST_BYTES)
        right = table[election.holders[0]]
        missing = {
            laggard: [int(chunk) for chunk in np.flatnonzero((table[laggard] != right).any(axis=1))]
            for laggard in election.laggards
        }
        if missing.get(me):
            self._standing.lineage = self._revision = -1
            self.report.changed = True
        for transfer in plan_transfer(missing, election.holders, content.sizes, self.round_bytes):
            self._one_round(transfer, right)
            if comm.view is not view:
                return
        if me in missing and self._suspect < 0:
            self._revision = election.revision

    def _one_round(self, transfer: Transfer, right: Any) -> None:
        """Chunks of those who die meanwhile do not come; all others do, and are put where they belong."""
        comm, content, report = self._comm, self._content, self.report
        view, me = comm.view, comm.rank
        outgoing = [transfer.get((me, rank), []) for rank in range(view.size)]
        incoming = [transfer.get((rank, me), []) for rank in range(view.size)]
        awaited = [chunk for chunks in incoming for chunk in chunks]
        arrived = comm.all_to_all(
            content.packed([chunk for chunks in outgoing for chunk in chunks]),
            out=content.in_place(awaited),
            send_counts=self._bytes(outgoing),
            recv_counts=self._bytes(incoming),
        )
        alive = [rank for rank, member in enumerate(view.ids) if comm.view.rank_of(member) is not None]
        report.bytes_sent += sum(self._bytes([outgoing[rank] for rank in alive]))
        report.bytes_received += arrived.size
        end = arrived.size
        for rank in reversed(alive):  # from the back, since what came may lie in front of its place
            size = self._bytes([incoming[rank]])[0]
            content.put(incoming[rank], arrived[end - size : end])
            end -= size
        content.rehash(awaited)  # also those that did not come: an attempt may have overwritten them
        for rank in alive:
            wrong = [chunk for chunk in incoming[rank] if (content.hashes[chunk] != right[chunk]).any()]
            report.chunks_received += len(incoming[rank])
            if incoming[rank]:
                report.donors.add(view[rank].name)
            if wrong:
                self._suspect = view.ids[rank]

    def _bytes(self, chunks_by_rank: Sequence[Sequence[int]]) -> list[int]:
        return [sum(self._content.sizes[chunk] for chunk in chunks) for chunks in chunks_by_rank]
