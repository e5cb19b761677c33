"""Packing on a GPU: the kernels that move a layout, and the numbers they are launched with. Their text is `kernelsource`.

After TEMPI (arXiv 2012.14363): one kernel for each number of nested levels and each width of word. All runs of a block, which
are those of all items, and all blocks of one shape are moved in one launch. Packing and unpacking are one kernel with source
and target exchanged. Neighbouring threads move neighbouring words of what is written. Where a word lies follows from its number
by divisions, and these are multiplications by numbers found here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import gcd, prod
from typing import NamedTuple

from .kernelsource import THREADS, WORDS, Kernel, element_bytes
from .strided import Dim, StridedBlock

WIDEST = 16  # bytes that a thread loads by one instruction
BLOCKS = 16  # at most, for each multiprocessor, which holds 8 of them at a time
LIMIT = 1 << 31  # of words in one launch, and of offsets that 32 bits hold
LENGTHS = 16  # of runs in blocks that are equal otherwise; of more, runs are cut at powers of two


class Level(NamedTuple):
    """``times`` repetitions; bytes, later words, from one to the next."""

    times: int
    source: int
    target: int


class Launch(NamedTuple):
    """``source``, ``target``: bytes from the arrays' origins. ``dense``: bytes of the one run that it is, or 0."""

    kernel: Kernel
    source: int
    target: int
    total: int
    dense: int
    numbers: tuple[int, ...]
    table: tuple[tuple[int, int], ...]

    def grid(self, multiprocessors: int) -> int:
        return min(-(-self.total // (THREADS * WORDS)), BLOCKS * multiprocessors)


def launches(
    blocks: Sequence[StridedBlock],
    unpack: bool = False,
    ufunc: str = "",
    dtype: str = "",
    strided_at: int = 0,
    packed_at: int = 0,
) -> tuple[Launch, ...]:
    """What moves the layout that ``blocks`` are.

    ``strided_at``, ``packed_at``: the addresses of the origins; their remainders modulo 16 matter. ``ufunc`` and ``dtype``:
    names, to combine while unpacking. Raises ValueError where no kernel does that, or a run holds no whole number of elements.
    """
    unit = element_bytes(ufunc, dtype) if ufunc else 0
    if unit and (odd := next((block.nbytes for block in blocks if block.nbytes % unit), 0)):
        raise ValueError(f"a run of {odd} bytes holds no whole number of {dtype}: reduce with the type of the data")
    shapes: dict[tuple[int, int, tuple[Dim, ...]], list[tuple[int, int]]] = defaultdict(list)
    for block in _cut(blocks, unit or 1):
        width = gcd(unit or gcd(WIDEST, block.nbytes), strided_at + block.start, packed_at + block.packed)
        width = gcd(width, *(step for dim in block.dims for step in dim[1:]))
        shapes[width, block.nbytes, block.dims].append((block.start, block.packed))
    found: list[Launch] = []
    for (width, nbytes, dims), places in shapes.items():
        element = unit or width
        words = Dim(nbytes // element, element, element)
        found += _Move(width, unpack, ufunc, dtype).launches([*dims, words], places)
    return tuple(found)


def _cut(blocks: Sequence[StridedBlock], unit: int) -> Iterator[StridedBlock]:
    """``blocks``; where runs are of many lengths, as blocks with runs of few, so that few launches move them."""
    lengths: dict[tuple[Dim, ...], set[int]] = defaultdict(set)
    for block in blocks:
        lengths[block.dims].add(block.nbytes)
    for block in blocks:
        if len(lengths[block.dims]) <= LENGTHS:
            yield block
            continue
        done, left = 0, block.nbytes // unit
        while left:
            piece = unit << (left.bit_length() - 1)
            yield block._replace(start=block.start + done, packed=block.packed + done, nbytes=piece)
            done, left = done + piece, left - piece // unit


class _Move(NamedTuple):
    width: int
    unpack: bool
    ufunc: str
    dtype: str

    def launches(self, dims: Sequence[Dim], places: Sequence[tuple[int, int]]) -> Iterator[Launch]:
        """``dims``: of a block, and its words; ``places``: where equal blocks begin, strided and packed."""
        whole = self._levels(dims)
        ends = sorted((self._ends(*place) for place in places), key=lambda end: end[1])
        outer, inner = Level(1, 0, 0), whole
        if whole and abs(whole[0].target) > ends[-1][1] - ends[0][1]:
            outer, *inner = whole  # from one item to the next, all blocks of each together
        most = max(1, (LIMIT - 1) // prod(level.times for level in inner))
        for first in range(0, len(ends), most):
            part = ends[first : first + most]
            table, levels = [], whole
            if len(part) > 1:
                table = [(source - part[0][0], target - part[0][1]) for source, target in part]
                levels = [outer, Level(len(part), 0, 0), *inner]
            for some, source, target in _parts(levels, *part[0]):
                yield self._launch(some, source, target, table)

    def _ends(self, start: int, packed: int) -> tuple[int, int]:
        return (packed, start) if self.unpack else (start, packed)

    def _levels(self, dims: Sequence[Dim]) -> list[Level]:
        """In the order of what is written, so that neighbours there are neighbours in time."""
        levels = [self._level(dim) for dim in dims if dim.count > 1]
        return _folded(sorted(levels, key=lambda level: -abs(level.target)))

    def _level(self, dim: Dim) -> Level:
        return Level(dim.count, *self._ends(dim.stride, dim.packed))

    def _launch(self, levels: Sequence[Level], source: int, target: int, table: Sequence[tuple[int, int]]) -> Launch:
        width = self.width
        words = [Level(level.times, level.source // width, level.target // width) for level in levels]
        reach = max(sum((level.times - 1) * abs(level[side]) for level in words) for side in (1, 2))
        kernel = Kernel(len(words), width, bool(table), reach >= LIMIT, self.ufunc, self.dtype)
        total = prod(level.times for level in words)
        dense = not table and not self.ufunc and all(level[1:] == (1, 1) for level in words)
        return Launch(
            kernel,
            source,
            target,
            total,
            total * width * dense,
            _numbers(words, total, len(table)),
            tuple((at // width, to // width) for at, to in table),
        )


def _folded(levels: Sequence[Level]) -> list[Level]:
    """``levels`` without those that go on where the next one inside ends."""
    found: list[Level] = []
    for level in levels:
        if found and found[-1][1:] == (level.times * level.source, level.times * level.target):
            level = level._replace(times=level.times * found.pop().times)
        found.append(level)
    return found


def _parts(levels: Sequence[Level], source: int, target: int) -> Iterator[tuple[Sequence[Level], int, int]]:
    """``levels``, halved from outside until the words of one part can be counted."""
    if prod(level.times for level in levels) < LIMIT:
        yield levels, source, target
        return
    outer, *inner = levels
    if outer.times == 1:
        yield from _parts(inner, source, target)
        return
    half = outer.times // 2
    yield from _parts([outer._replace(times=half), *inner], source, target)
    outer = outer._replace(times=outer.times - half)
    yield from _parts([outer, *inner], source + half * levels[0].source, target + half * levels[0].target)


def _numbers(levels: Sequence[Level], total: int, entries: int) -> tuple[int, ...]:
    """What the kernel gets: the words in all; for each level, from the innermost on, what its quotient adds to the offsets; the
    divisors; the length of the table. All modulo 2**64.

    With q0 the number of a word and q(k+1) = q(k) // times(k), level k stands at q(k) - q(k+1) * times(k): so q(k+1) adds its
    step less times(k) steps of level k.
    """
    found = [total]
    inside = Level(0, 0, 0)
    for level in reversed(levels):
        found += [level.source - inside.times * inside.source, level.target - inside.times * inside.target]
        inside = level
    for level in reversed(levels[1:]):
        found += divisor(level.times)
    return tuple(number % (1 << 64) for number in (*found, entries))


def divisor(count: int) -> tuple[int, int]:
    """``(magic, shift)``: x // count == x * magic >> 32 >> shift for all x below 2**31; ``count`` from 2 on."""
    bits = (count - 1).bit_length()
    return -(-(1 << (31 + bits)) // count), bits - 1
