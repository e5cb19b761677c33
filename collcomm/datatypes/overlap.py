"""Whether layouts share bytes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from .layout import MAX_RUNS, Layout, Offsets, Repeat, Run, all_runs

Placed = tuple[int, Layout]  # the address of the origin


@lru_cache(maxsize=1024)
def has_overlap(layout: Layout) -> bool:
    """Whether a byte occurs twice. Raises ValueError where that cannot be found out."""
    if isinstance(layout, Run):
        return False
    if layout.size > layout.high - layout.low:
        return True
    if isinstance(layout, Repeat):
        entangled = _entangled(layout)
        if entangled is not layout:
            return has_overlap(entangled)
    elif _apart(layout.parts):
        return any(has_overlap(part) for part in layout.parts)
    starts, sizes = all_runs(layout)
    order = np.argsort(starts, kind="stable")
    starts, sizes = starts[order], sizes[order]
    return bool(np.any(starts[:-1] + sizes[:-1] > starts[1:]))


def _entangled(layout: Layout) -> Layout:
    """Without the dimensions that step over all that the smaller ones reach."""
    dims = list[Repeat]()
    core = layout
    while isinstance(core, Repeat):
        dims.append(core)
        core = core.body
    dims.sort(key=lambda dim: abs(dim.stride))
    reach, needed = core.high - core.low, 0
    for number, dim in enumerate(dims, 1):
        if abs(dim.stride) < reach:
            needed = number
        reach += abs(dim.stride) * (dim.count - 1)
    if needed == len(dims):
        return layout
    for dim in dims[:needed]:
        core = Repeat(dim.count, dim.stride, core)
    return core


def _apart(parts: tuple[Layout, ...]) -> bool:
    """Whether each reaches less far than the next begins."""
    inorder = sorted(parts, key=lambda part: part.low)
    return all(one.high <= other.low for one, other in pairwise(inorder))


def are_apart(ones: Sequence[Placed], others: Sequence[Placed]) -> bool:
    """Whether no byte belongs to one of ``ones`` and to one of ``others``. False where that would take too long to find out."""
    ones, others = ([one for one in side if one[1].size] for side in (ones, others))
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
