"""Which bytes of a memory, in which order: a tree of runs, repetitions and sequences.

A layout stands for a list of byte offsets, the *type map* in bytes; packing copies them in this order. `canonical` makes layouts:
of all trees that stand for the same list it makes the same one, so that layouts are equal when their lists are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .strided import Dim, StridedBlock

Offsets = np.ndarray[Any, np.dtype[np.int64]]
MAX_RUNS = 1 << 20  # of what has no regular form


@dataclass(frozen=True)
class Run:
    """``size`` bytes in a row, from ``start``."""

    start: int
    size: int

    @property
    def low(self) -> int:
        return self.start

    @property
    def high(self) -> int:
        return self.start + self.size

    @property
    def runs(self) -> int:
        return 1

    @property
    def depth(self) -> int:
        return 0

    def shifted(self, offset: int) -> Run:
        return Run(self.start + offset, self.size) if offset else self


@dataclass(frozen=True)
class Repeat:
    """``body``, ``count`` >= 2 times, each ``stride`` bytes after the one before."""

    count: int
    stride: int
    body: Layout

    @cached_property
    def size(self) -> int:
        return self.count * self.body.size

    @cached_property
    def low(self) -> int:
        return self.body.low + min(0, (self.count - 1) * self.stride)

    @cached_property
    def high(self) -> int:
        return self.body.high + max(0, (self.count - 1) * self.stride)

    @cached_property
    def runs(self) -> int:
        return self.count * self.body.runs

    @cached_property
    def depth(self) -> int:
        return 1 + self.body.depth

    @cached_property
    def _hash(self) -> int:
        return hash((self.count, self.stride, self.body))

    def __hash__(self) -> int:
        return self._hash

    def shifted(self, offset: int) -> Repeat:
        return Repeat(self.count, self.stride, self.body.shifted(offset)) if offset else self


@dataclass(frozen=True)
class Several:
    """``parts``, none of them empty, one after the other in the packed order; none or two at least."""

    parts: tuple[Layout, ...] = ()

    @cached_property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @cached_property
    def low(self) -> int:
        return min((part.low for part in self.parts), default=0)

    @cached_property
    def high(self) -> int:
        return max((part.high for part in self.parts), default=0)

    @cached_property
    def runs(self) -> int:
        return sum(part.runs for part in self.parts)

    @cached_property
    def depth(self) -> int:
        return max((part.depth for part in self.parts), default=0)

    @cached_property
    def _hash(self) -> int:
        return hash(self.parts)

    def __hash__(self) -> int:
        return self._hash

    def shifted(self, offset: int) -> Several:
        return Several(tuple(part.shifted(offset) for part in self.parts)) if offset else self


Layout = Run | Repeat | Several
EMPTY = Several()


def strided_blocks(layout: Layout) -> tuple[StridedBlock, ...]:
    """The layout as the boxes that it consists of."""
    return tuple(_boxes(layout, 0, 0, ()))


def _boxes(layout: Layout, offset: int, packed: int, dims: tuple[Dim, ...]) -> Iterator[StridedBlock]:
    if isinstance(layout, Run):
        yield StridedBlock(layout.start + offset, packed, layout.size, dims)
    elif isinstance(layout, Repeat):
        yield from _boxes(layout.body, offset, packed, (*dims, Dim(layout.count, layout.stride, layout.body.size)))
    else:
        for part in layout.parts:
            yield from _boxes(part, offset, packed, dims)
            packed += part.size


def all_runs(layout: Layout) -> tuple[Offsets, Offsets]:
    """Start and length of each run, in the packed order. Raises ValueError for more than `MAX_RUNS`."""
    check_runs(layout.runs)
    return _expand(layout)


def check_runs(count: int) -> None:
    """Raises ValueError for more than `MAX_RUNS`."""
    if count > MAX_RUNS:
        raise ValueError(
            f"a layout without a regular form may have {MAX_RUNS} separate pieces at most, not {count}; "
            f"copy what it names with an index array, and send the copy"
        )


def _expand(layout: Layout) -> tuple[Offsets, Offsets]:
    if isinstance(layout, Run):
        return np.array([layout.start], np.int64), np.array([layout.size], np.int64)
    if isinstance(layout, Repeat):
        starts, sizes = _expand(layout.body)
        steps = np.arange(layout.count, dtype=np.int64) * layout.stride
        return (steps[:, None] + starts).reshape(-1), np.tile(sizes, layout.count)
    if not layout.parts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    expanded = [_expand(part) for part in layout.parts]
    return np.concatenate([starts for starts, _ in expanded]), np.concatenate([sizes for _, sizes in expanded])


def tiles(layout: Layout, limit: int, offset: int = 0) -> Iterator[tuple[int, Layout]]:
    """The layout in pieces of about ``limit`` packed bytes (never twice as many), in their order: by how far each lies behind
    the layout's origin, and a layout, which many pieces share. Not in canonical form."""
    if layout.size <= limit:
        yield offset, layout
    elif isinstance(layout, Run):
        for start in range(0, layout.size, limit):
            yield offset + start, Run(layout.start, min(limit, layout.size - start))
    elif isinstance(layout, Repeat):
        at_once = limit // layout.body.size
        for first in range(0, layout.count, max(1, at_once)):
            place = offset + first * layout.stride
            count = min(at_once, layout.count - first)
            if count > 1:
                yield place, Repeat(count, layout.stride, layout.body)
            else:
                yield from tiles(layout.body, limit, place)
    else:
        yield from _grouped(layout.parts, limit, offset)


def _grouped(parts: tuple[Layout, ...], limit: int, offset: int) -> Iterator[tuple[int, Layout]]:
    group: list[Layout] = []
    size = 0
    for part in (*parts, EMPTY):
        if group and (size + part.size > limit or not part.size):
            yield offset, group[0] if len(group) == 1 else Several(tuple(group))
            group, size = [], 0
        if part.size > limit:
            yield from tiles(part, limit, offset)
        elif part.size:
            group.append(part)
            size += part.size
