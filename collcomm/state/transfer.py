"""Who sends which chunk to whom: a pure plan that every peer computes alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Transfer = dict[tuple[int, int], list[int]]  # (donor, laggard) -> chunks, in order

ROUND_BYTES = 32 << 20  # what one peer sends or receives in one exchange: bounds the memory for packing


def plan_transfer(
    missing: Mapping[int, Sequence[int]], donors: Sequence[int], sizes: Sequence[int], limit: int = ROUND_BYTES
) -> list[Transfer]:
    """Rounds of transfers. ``missing``: chunks that each laggard lacks; ``sizes``: bytes of each chunk.

    Each chunk comes from the donor that has least to send so far, so a newcomer pulls from all of them at once; in a
    round no peer sends or receives more than ``limit`` bytes (or one chunk).
    """
    rounds: list[Transfer] = [{}]
    load = dict.fromkeys(donors, 0)
    used: dict[tuple[str, int], int] = {}
    queues = {laggard: list(chunks) for laggard, chunks in missing.items()}
    while any(queues.values()):
        for laggard, queue in queues.items():
            if not queue:
                continue
            chunk = queue.pop(0)
            size = sizes[chunk]
            donor = min(donors, key=lambda donor: (load[donor], donor))
            load[donor] += size
            ends = (("out", donor), ("in", laggard))
            if any(used.get(end, 0) and used[end] + size > limit for end in ends):
                rounds.append({})
                used.clear()
            for end in ends:
                used[end] = used.get(end, 0) + size
            rounds[-1].setdefault((donor, laggard), []).append(chunk)
    return [transfer for transfer in rounds if transfer]
