"""Shared state: bit-identical at all members, by hashes, a vote, and transfers of only what differs."""

from __future__ import annotations

from .digest import CHUNK_BYTES, Claim, Content
from .synchronise import Standing, Synchroniser, SyncReport, as_revision, synchronise
from .transfer import plan_transfer
from .vote import Election, elect

__all__ = [
    "CHUNK_BYTES",
    "Claim",
    "Content",
    "Election",
    "Standing",
    "SyncReport",
    "Synchroniser",
    "as_revision",
    "elect",
    "plan_transfer",
    "synchronise",
]
