"""`synchronise`: make arrays bit-identical at all members, moving only what differs.

    1. All claim: revision, lineage, hash of everything. Equal everywhere: done, no state has moved.
    2. `vote.elect` decides whose content wins.
    3. All exchange the hashes of their chunks; `transfer.plan_transfer` assigns each chunk that a laggard lacks to one of
       the holders, evenly.
    4. The chunks travel by all_to_all, in rounds of bounded size; laggards hash what has arrived.
    5. From 1. again, until all claim the same.

A death in between ends the turn: the survivors begin again at 1. with what they have by then. Holders are never
written, so nothing that the majority holds can get lost on the way.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..errors import StateDiverged
from ..types import View
from .digest import DIGEST_BYTES, Claim, Content
from .transfer import Transfer, plan_transfer
from .vote import Election, elect

EXTRA_TURNS = 4  # turns beyond one per member that may die meanwhile
_RECORD = np.dtype([("revision", "<i8"), ("lineage", "<i8"), ("schema", "V16"), ("root", "V16")])


class Group(Protocol):
    """What is needed of a communicator."""

    @property
    def view(self) -> View: ...

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_gather(self, x: Any) -> Any: ...

    def all_to_all(self, x: Any, *, send_counts: Any, recv_counts: Any) -> Any: ...


@dataclass
class SyncReport:
    """``changed``: this peer's arrays were overwritten; ``donors``: names of those it got chunks from; byte counts are of
    state, without hashes and headers."""

    revision: int = -1
    changed: bool = False
    bytes_received: int = 0
    bytes_sent: int = 0
    chunks_received: int = 0
    turns: int = 0
    seconds: float = 0.0
    donors: set[str] = field(default_factory=set)


def synchronise(
    comm: Group, state: Mapping[str, Any], revision: int | None, lineage: int = -1
) -> tuple[SyncReport, int]:
    """Returns the report and this peer's new lineage. ``revision``: None for a peer that has nothing.

    Every member calls it at the same point. Raises StateDiverged, at every member, where no majority holds the same
    content; ValueError for arrays that cannot be shared.
    """
    if revision is not None and (not isinstance(revision, int | np.integer) or not 0 <= revision < 2**62):
        raise ValueError(f"revision must be a number that is not negative, or None, not {revision!r}")
    began = time.monotonic()
    content = Content(state)
    report = SyncReport()
    mine = -1 if revision is None else int(revision)
    turns = comm.size + EXTRA_TURNS
    for turn in range(turns):
        report.turns = turn + 1
        claims = _exchange_claims(comm, content, mine, lineage)
        if claims is None:
            continue
        election = elect(claims)
        if not election.laggards:
            content.write_back()
            report.revision = election.revision
            report.seconds = time.monotonic() - began
            return report, election.revision
        if _transfer(comm, content, election, report) and comm.rank in election.laggards:
            mine = election.revision
            report.changed = True
    raise StateDiverged(f"the state is not equal after {turns} turns; peers write to their arrays, or keep dying")


def _exchange_claims(comm: Group, content: Content, revision: int, lineage: int) -> list[Claim] | None:
    """What all claim, by rank; None when the view changed in between."""
    view = comm.view
    record = np.array([(revision, lineage, content.schema_digest, content.root)], _RECORD)
    gathered = comm.all_gather(record.view(np.uint8))
    if comm.view is not view:
        return None
    rows = gathered.view(_RECORD)
    return [
        Claim(member.name, int(row["revision"]), int(row["lineage"]), row["schema"].tobytes(), row["root"].tobytes())
        for member, row in zip(view.members, rows, strict=True)
    ]


def _transfer(comm: Group, content: Content, election: Election, report: SyncReport) -> bool:
    """Bring the laggards the chunks that they lack. False when the view changed: begin again."""
    view, me = comm.view, comm.rank
    hashes = comm.all_gather(content.hashes.reshape(-1))
    if comm.view is not view:
        return False
    table = hashes.reshape(comm.size, len(content.chunks), DIGEST_BYTES)
    right = table[election.holders[0]]
    missing = {
        laggard: [int(chunk) for chunk in np.flatnonzero((table[laggard] != right).any(axis=1))]
        for laggard in election.laggards
    }
    sizes = [chunk.size for chunk in content.chunks]
    for transfer in plan_transfer(missing, election.holders, sizes):
        arrived = _one_round(comm, content, transfer, sizes, report)
        if arrived is None or comm.view is not view:
            return False
    received = missing.get(me, [])
    content.rehash(received)
    report.chunks_received += len(received)
    return True


def _one_round(comm: Group, content: Content, transfer: Transfer, sizes: list[int], report: SyncReport) -> Any:
    view, me = comm.view, comm.rank
    outgoing = [transfer.get((me, rank), []) for rank in range(view.size)]
    incoming = [transfer.get((rank, me), []) for rank in range(view.size)]
    parts = [content.chunks[chunk] for chunks in outgoing for chunk in chunks]
    packed = np.concatenate(parts) if parts else np.empty(0, np.uint8)
    sends = [sum(sizes[chunk] for chunk in chunks) for chunks in outgoing]
    receives = [sum(sizes[chunk] for chunk in chunks) for chunks in incoming]
    arrived = comm.all_to_all(packed, send_counts=sends, recv_counts=receives)
    if comm.view is not view:
        return None
    position = 0
    for rank, chunks in enumerate(incoming):
        if chunks:
            report.donors.add(view.members[rank].name)
        for chunk in chunks:
            content.chunks[chunk][:] = arrived[position : position + sizes[chunk]]
            position += sizes[chunk]
    report.bytes_sent += packed.size
    report.bytes_received += arrived.size
    return arrived
