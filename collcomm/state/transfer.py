"""Who sends which chunk to whom: a pure plan that every peer computes alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Transfer = dict[tuple[int, int], list[int]]  # (donor, laggard) -> chunks, ascending

ROUND_BYTES = 32 << 20  # what a peer sends or receives in one exchange: bounds packing, and what a view change repeats


def plan_transfer(
    missing: Mapping[int, Sequence[int]], donors: Sequence[int], sizes: Sequence[int], limit: int = ROUND_BYTES
) -> list[Transfer]:
    """Rounds of transfers. ``missing``: chunks that each laggard lacks, ascending; ``sizes``: bytes of each chunk.

    In a round a laggard gets its next chunks from all donors at once, the first ones from the lowest rank and so on: as
    they arrive, by rank, they lie as they do in its arrays. No peer receives more than ``limit`` bytes in a round (or one
    chunk), and none sends more, but for a chunk per laggard.
    """
    rounds: list[Transfer] = []
    load = dict.fromkeys(donors, 0)
    position = dict.fromkeys(missing, 0)
    while True:
        hungry = [laggard for laggard in sorted(missing) if position[laggard] < len(missing[laggard])]
        if not hungry:
            return rounds
        transfer: Transfer = {}
        room = limit * len(donors)
        share = min(limit, room // len(hungry))
        for laggard in hungry:
            chunks = _next(missing[laggard], position[laggard], sizes, share)
            position[laggard] += len(chunks)
            for donor, part in _divide(chunks, sizes, load).items():
                transfer[donor, laggard] = part
                load[donor] += sum(sizes[chunk] for chunk in part)
            room -= sum(sizes[chunk] for chunk in chunks)
            if room <= 0:
                break  # the others' turn comes in the next rounds
        rounds.append(transfer)


def _next(chunks: Sequence[int], start: int, sizes: Sequence[int], limit: int) -> list[int]:
    """Chunks of ``limit`` bytes in all, at least one."""
    taken = [chunks[start]]
    room = limit - sizes[taken[0]]
    for chunk in chunks[start + 1 :]:
        room -= sizes[chunk]
        if room < 0:
            break
        taken.append(chunk)
    return taken


def _divide(chunks: Sequence[int], sizes: Sequence[int], load: Mapping[int, int]) -> dict[int, list[int]]:
    """Cut ``chunks`` into pieces of about equal size, one for each donor; if there are fewer chunks than donors, for those
    who have sent least so far."""
    chosen = sorted(sorted(load, key=lambda donor: (load[donor], donor))[: len(chunks)])
    total = max(1, sum(sizes[chunk] for chunk in chunks))
    parts: dict[int, list[int]] = {}
    before = 0
    for chunk in chunks:
        parts.setdefault(chosen[before * len(chosen) // total], []).append(chunk)
        before += sizes[chunk]
    return parts
