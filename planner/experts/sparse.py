"""Sparse all-gather and reduce-scatter of chunks over a placement (Hecate, 2025).

A placement says which devices hold which chunks: experts' weights, say. `gather` brings a wider one about: who sends which
chunk to whom, the load spread over those that hold it. `scatter` goes back: each device that worked with a chunk sends its
partial sum to those that keep it, and they add up in the order of the ranks, so that all keepers have the same bits.

Bytes, for a chunk of b bytes with k keepers (P0) that w devices want (P1):

    gather: (|P0 or P1| - k) * b        scatter: k * w * b, less b for each keeper that has a partial sum of its own
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

MAX_CHUNKS, MAX_DEVICES = 1 << 20, 1 << 12

Placement = tuple[tuple[bool, ...], ...]  # [chunk][device]


class Move(NamedTuple):
    """``source`` sends ``chunk`` to ``target``."""

    chunk: int
    source: int
    target: int


@dataclass(frozen=True)
class SparseExchange:
    """``before`` and ``after``: placements; ``sizes``: elements of each chunk; ``moves``: by source, target and chunk, the order
    in which a source sends and a target receives; ``epoch``: of the view whose ranks the devices are."""

    before: Placement
    after: Placement
    sizes: tuple[int, ...]
    moves: tuple[Move, ...]
    reduces: bool
    epoch: int = 0

    @property
    def devices(self) -> int:
        return len(self.before[0])

    @cached_property
    def matrix(self) -> tuple[tuple[int, ...], ...]:
        """[source][target]: elements that go from one to the other. A row is a rank's send_counts, a column its recv_counts."""
        rows = [[0] * self.devices for _ in range(self.devices)]
        for move in self.moves:
            rows[move.source][move.target] += self.sizes[move.chunk]
        return tuple(map(tuple, rows))

    def sent(self, rank: int) -> tuple[Move, ...]:
        return tuple(move for move in self.moves if move.source == rank)

    def received(self, rank: int) -> tuple[Move, ...]:
        return tuple(move for move in self.moves if move.target == rank)

    def held(self, rank: int) -> tuple[int, ...]:
        """Chunks that ``rank`` has to bring along."""
        return tuple(chunk for chunk, row in enumerate(self.before) if row[rank])

    def wanted(self, rank: int) -> tuple[int, ...]:
        """Chunks that ``rank`` has afterwards."""
        return tuple(chunk for chunk, row in enumerate(self.after) if row[rank])

    def nbytes(self, itemsize: int) -> int:
        """Bytes between ranks, for elements of ``itemsize`` bytes."""
        return sum(self.sizes[move.chunk] for move in self.moves) * itemsize


def gather(
    held: Sequence[Sequence[bool]], wanted: Sequence[Sequence[bool]], sizes: Sequence[int], *, epoch: int = 0
) -> SparseExchange:
    """Sparse all-gather: from ``held[chunk][device]`` to ``wanted``; what is held stays, wanted or not.

    A chunk that several hold comes from the one that has least to send so far; large chunks, and among equal ones those with few
    holders, are settled first.
    """
    before, asked, elements = _checked(held, wanted, sizes)
    after = tuple(
        tuple(h or w for h, w in zip(row, more, strict=True)) for row, more in zip(before, asked, strict=True)
    )
    burden = [0] * len(before[0])
    moves = []
    for chunk in sorted(range(len(before)), key=lambda chunk: (-elements[chunk], sum(before[chunk]), chunk)):
        holders = _devices(before[chunk])
        targets = [device for device in _devices(after[chunk]) if not before[chunk][device]]
        if targets and not holders:
            raise ValueError(
                f"nobody holds chunk {chunk}, which device {targets[0]} wants: restore it from a checkpoint"
            )
        for target in targets:
            source = min(holders, key=lambda device: (burden[device], device))
            burden[source] += elements[chunk]
            moves.append(Move(chunk, source, target))
    return SparseExchange(before, after, elements, _ordered(moves), False, epoch)


def scatter(
    partial: Sequence[Sequence[bool]], kept: Sequence[Sequence[bool]], sizes: Sequence[int], *, epoch: int = 0
) -> SparseExchange:
    """Sparse reduce-scatter: devices with ``partial[chunk][device]`` sums of a chunk send them to those that ``kept`` names."""
    before, after, elements = _checked(partial, kept, sizes)
    moves = []
    for chunk, row in enumerate(before):
        sources, keepers = _devices(row), _devices(after[chunk])
        if sources and not keepers:
            raise ValueError(f"nobody keeps chunk {chunk}, of which device {sources[0]} has a partial sum")
        if keepers and not sources:
            raise ValueError(f"nobody has a partial sum of chunk {chunk}, which device {keepers[0]} keeps")
        moves += [Move(chunk, source, keeper) for source in sources for keeper in keepers if source != keeper]
    return SparseExchange(before, after, elements, _ordered(moves), True, epoch)


def _ordered(moves: list[Move]) -> tuple[Move, ...]:
    return tuple(sorted(moves, key=lambda move: (move.source, move.target, move.chunk)))


def _devices(row: Sequence[bool]) -> list[int]:
    return [device for device, there in enumerate(row) if there]


def _checked(
    first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], sizes: Sequence[int]
) -> tuple[Placement, Placement, tuple[int, ...]]:
    one, two = (tuple(tuple(bool(there) for there in row) for row in rows) for rows in (first, second))
    elements = tuple(int(size) for size in sizes)
    if not 1 <= len(one) <= MAX_CHUNKS or not 1 <= len(one[0]) <= MAX_DEVICES:
        raise ValueError(f"placements must be of 1 to {MAX_CHUNKS} chunks on 1 to {MAX_DEVICES} devices")
    if len(two) != len(one) or any(len(row) != len(one[0]) for row in (*one, *two)):
        raise ValueError("both placements must be of the same chunks and devices: [chunk][device]")
    if len(elements) != len(one) or min(elements) < 0:
        raise ValueError(f"sizes must be {len(one)} numbers of elements, none negative")
    return one, two, elements
