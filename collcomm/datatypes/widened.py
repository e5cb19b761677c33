"""Packing of runs that are a little shorter than a number, as if they were one.

numpy moves runs of 12 bytes with a call of memmove each. Numbers of 16 bytes it loads and stores itself, but only between memory
with gaps and memory without: so they are gathered in a room in cache, and put from there to their places 12 bytes apart, in
ascending order, where each takes the place of what the one before has too much. Measured at 1.2 to 4 times the speed. The last
run is moved as it is: behind it, there may be no memory. Unpacking has no such way, since what lies between runs is not to be
touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .stridedcopy import Array, Bytes, StridedCopy

_WIDE = {size: np.dtype(name) for size, name in ((4, "u4"), (8, "u8"), (16, "c16"))}
MANY = 64  # runs that are worth two more calls
MANY_AT_ONCE = 2048  # that are worth preparing them
AT_ONCE = 1 << 14  # runs in the room: 256 KiB
INNERMOST = 16  # runs of the innermost dimension, for which numpy's loop is worth beginning


class WidenedCopy(NamedTuple):
    """``runs`` of them, that ``parts`` move as they are, and their packing: ``boxes`` of wide elements one after the other, then
    ``last``, the last run."""

    runs: int
    parts: tuple[StridedCopy, ...]
    boxes: tuple[StridedCopy, ...]
    last: StridedCopy

    def pack(self, memory: Bytes, origin: int, packed: Bytes) -> None:
        if self.runs < MANY_AT_ONCE:
            for part in self.parts:
                part.pack(memory, origin, packed)
            return
        for target, source in self._moves(memory, origin, packed):
            target[...] = source

    def packer(self, memory: Bytes, origin: int, packed: Bytes) -> Callable[[], None]:
        """`pack`, prepared."""
        moves = list(self._moves(memory, origin, packed))

        def pack() -> None:
            for target, source in moves:
                target[...] = source

        return pack

    def _moves(self, memory: Bytes, origin: int, packed: Bytes) -> Iterator[tuple[Array, Array]]:
        """What is to be copied where, in this order."""
        room: Array = np.empty(min(AT_ONCE, self.runs), self.boxes[0].unit)
        for box in self.boxes:
            yield from _through(room, *box.views(memory, origin, packed))
        theirs, ours = self.last.views(memory, origin, packed)
        yield ours, theirs

    def unpack(self, memory: Bytes, origin: int, packed: Bytes) -> None:
        for part in self.parts:
            part.unpack(memory, origin, packed)

    def reduce(self, memory: Bytes, origin: int, packed: Bytes, ufunc: np.ufunc, dtype: np.dtype[Any]) -> None:
        for part in self.parts:
            part.reduce(memory, origin, packed, ufunc, dtype)


def widened(copy: StridedCopy, parts: tuple[StridedCopy, ...]) -> WidenedCopy | None:
    """``copy``, a whole block, to be packed in wide elements, and otherwise moved in ``parts``; None where that is not possible,
    or not worth it."""
    size, runs = copy.unit.itemsize, math.prod(copy.shape)
    wide = next((unit for width, unit in _WIDE.items() if size < width), None)
    if copy.unit.kind != "V" or wide is None or not copy.shape or runs < MANY or copy.shape[-1] < INNERMOST:
        return None
    if min(copy.strides) < wide.itemsize - size:  # the last run has to be the one furthest behind
        return None
    boxes = tuple(box._replace(unit=wide) for box in _without_last(copy))
    start, packed = _at(copy, [count - 1 for count in copy.shape])
    return WidenedCopy(runs, parts, boxes, StridedCopy(copy.unit, (1,), start, (size,), packed, (size,)))


def _at(copy: StridedCopy, place: list[int]) -> tuple[int, int]:
    """Where an element lies in memory and packed."""
    first = copy.start + sum(index * stride for index, stride in zip(place, copy.strides, strict=False))
    return first, copy.packed + sum(index * stride for index, stride in zip(place, copy.packed_strides, strict=False))


def _box(copy: StridedCopy, place: list[int], count: int) -> StridedCopy:
    """Behind ``place``, an index of all axes but some of the last, ``count`` of the next axis and all of the others."""
    start, packed = _at(copy, place)
    axis = len(place) - 1
    shape = (count, *copy.shape[axis + 1 :])
    return StridedCopy(copy.unit, shape, start, copy.strides[axis:], packed, copy.packed_strides[axis:])


def _without_last(copy: StridedCopy) -> Iterator[StridedCopy]:
    """All elements but the last, as boxes in the packed order."""
    place: list[int] = []
    for count in copy.shape:
        if count > 1:
            yield _box(copy, [*place, 0], count - 1)
        place.append(count - 1)


def _through(room: Array, theirs: Array, ours: Array) -> Iterator[tuple[Array, Array]]:
    """``theirs`` to ``room`` and on to ``ours``, as much at a time as goes into it."""
    inner = math.prod(theirs.shape[1:])
    if inner > room.size:
        for part, target in zip(theirs, ours, strict=True):
            yield from _through(room, part, target)
        return
    rows = room.size // inner
    between = room[: rows * inner].reshape(rows, *theirs.shape[1:])
    for first in range(0, theirs.shape[0], rows):
        part = theirs[first : first + rows]
        yield between[: len(part)], part
        yield ours[first : first + rows], between[: len(part)]
