"""Whether layouts share bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from .layout import MAX_RUNS, Layout, Offsets, all_runs, strided_blocks
from .strided import StridedBlock

Placed = tuple[int, Layout]  # the address of the origin


@lru_cache(maxsize=1024)
def has_overlap(layout: Layout) -> bool:
    """Whether a byte occurs twice. Raises ValueError where that cannot be found out."""
    blocks = strided_blocks(layout)
    if len(blocks) == 1 and _nests(blocks[0]):
        return False
    if layout.size > layout.high - layout.low:
        return True
    starts, sizes = all_runs(layout)
    order = np.argsort(starts, kind="stable")
    starts, sizes = starts[order], sizes[order]
    return bool(np.any(starts[:-1] + sizes[:-1] > starts[1:]))


def _nests(block: StridedBlock) -> bool:
    """Whether each dimension steps over all that the smaller ones reach."""
    reach = block.nbytes
    for dim in sorted(block.dims, key=lambda dim: abs(dim.stride)):
        if abs(dim.stride) < reach:
            return False
        reach += abs(dim.stride) * (dim.count - 1)
    return True


def are_apart(ones: Sequence[Placed], others: Sequence[Placed]) -> bool:
    """Whether no byte belongs to one of ``ones`` and to one of ``others``. False where that would take too long to find out."""
    if not ones or not others:
        return True
    if max(a + one.high for a, one in ones) <= min(a + other.low for a, other in others):
        return True
    base = min(address for address, _ in (*ones, *others))
    return _are_apart(*(tuple((address - base, layout) for address, layout in side) for side in (ones, others)))


@lru_cache(maxsize=256)
def _are_apart(ones: tuple[Placed, ...], others: tuple[Placed, ...]) -> bool:
    if sum(layout.runs for _, layout in (*ones, *others)) > MAX_RUNS:
        return False
    starts, ends = _covered(ones)
    low, high = _covered(others)
    before = np.searchsorted(low, ends) - 1  # the last of the others that begins before the end of each
    return not np.any((before >= 0) & (high[before] > starts))


def _covered(placed: Sequence[Placed]) -> tuple[Offsets, Offsets]:
    """Starts and ends of the runs, in the order of their starts; ends as far as any run before reaches."""
    runs = [(address + starts, sizes) for address, (starts, sizes) in ((a, all_runs(layout)) for a, layout in placed)]
    starts = np.concatenate([starts for starts, _ in runs])
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    return starts, np.maximum.accumulate(starts + np.concatenate([sizes for _, sizes in runs])[order])
