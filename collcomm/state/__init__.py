"""Shared state: bit-identical at all members, by hashes, a vote, and transfers of only what differs."""

from __future__ import annotations

from .digest import CHUNK_BYTES, Claim, Content
from .synchronise import SyncReport, synchronise
from .transfer import plan_transfer
from .vote import Election, elect

__all__ = ["CHUNK_BYTES", "Claim", "Content", "Election", "SyncReport", "elect", "plan_transfer", "synchronise"]
