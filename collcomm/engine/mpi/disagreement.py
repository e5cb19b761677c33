"""Peers that called something else: who, and what, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import CollectiveMismatch
from ...transports.mpi import Comm, CommFailed
from ..operation import Operation
from ..request import Request

TEXT_BYTES = 256


def texts_of_all(comm: Comm, request: Request) -> list[str]:
    """What everybody has called, by rank; nothing of use when that cannot be had any more."""
    mine = np.zeros(TEXT_BYTES, np.uint8)
    text = request.call.text.encode()[:TEXT_BYTES]
    mine[: len(text)] = np.frombuffer(text, np.uint8)
    try:
        rows = comm.gather_bytes(mine)
    except CommFailed:
        return ["something else"] * comm.size
    return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in rows]


def mismatch(operation: Operation, prints: Sequence[int], texts: Sequence[str]) -> CollectiveMismatch:
    """Names the minority; among equals, whoever differs from the lowest rank."""
    variants: dict[int, list[int]] = {}
    for rank, fingerprint in enumerate(prints):
        variants.setdefault(fingerprint, []).append(rank)
    ranked = sorted(variants.values(), key=lambda ranks: (-len(ranks), ranks[0]))
    names = [member.name for member in operation.view.members]
    odd = ", ".join(names[rank] for ranks in ranked[1:] for rank in ranks)
    said = "; ".join(f"{', '.join(names[rank] for rank in ranks)} called {texts[ranks[0]]}" for ranks in ranked)
    return CollectiveMismatch(f"{operation.request.call.text}: {odd} called something else: {said}; inputs are intact")


def unfit_counts(operation: Operation, rank: int) -> CollectiveMismatch:
    name = operation.view[rank].name
    return CollectiveMismatch(
        f"{operation.request.call.text}: {name} received data whose sizes do not fit its own counts; inputs are intact"
    )
