"""Layouts at random, and where each of their bytes goes, one by one."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from collcomm.datatypes.strided import Dim, StridedBlock


class Layout(NamedTuple):
    blocks: tuple[StridedBlock, ...]
    extent: int
    count: int

    @property
    def size(self) -> int:
        return self.count * sum(block.size for block in self.blocks)

    def bytes(self) -> Iterator[tuple[int, int]]:
        """(byte of the strided memory from its origin, byte of the packed memory), in no order."""
        size = sum(block.size for block in self.blocks)
        for item, block in itertools.product(range(self.count), self.blocks):
            for index in itertools.product(*(range(dim.count) for dim in block.dims)):
                start, packed = block.start + item * self.extent, block.packed + item * size
                for position, dim in zip(index, block.dims, strict=True):
                    start, packed = start + position * dim.stride, packed + position * dim.packed
                yield from ((start + byte, packed + byte) for byte in range(block.nbytes))


def random_layout(rng: random.Random, unit: int, overlapping: bool, max_rank: int = 4) -> Layout:
    """All of it in multiples of ``unit`` bytes. ``overlapping``: bytes may be read twice, else each is another."""
    blocks: list[StridedBlock] = []
    end = packed = 0
    equal = rng.random() < 0.4  # blocks of one shape
    shape = _shape(rng, max_rank)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        counts, words = shape if equal else _shape(rng, max_rank)
        block, reach = _block(rng, unit, counts, words, overlapping)
        gap = unit * rng.randrange(3)
        blocks.append(block._replace(start=block.start + end + gap, packed=packed))
        packed += block.size
        end += gap + reach
    shift = unit * rng.randrange(-3, 4)
    blocks = [block._replace(start=block.start + shift) for block in blocks]
    extent = end + unit * rng.randrange(3)
    if overlapping and rng.random() < 0.3:
        extent = unit * rng.randrange(4)
    return Layout(tuple(blocks), rng.choice((1, 1, -1)) * extent, rng.choice((1, 1, 2, 3)))


def _shape(rng: random.Random, max_rank: int) -> tuple[list[int], int]:
    return [rng.choice((2, 2, 3, 4)) for _ in range(rng.randint(0, max_rank))], rng.choice((1, 1, 2, 3, 5, 8))


def _block(
    rng: random.Random, unit: int, counts: Sequence[int], words: int, overlapping: bool
) -> tuple[StridedBlock, int]:
    """A block whose lowest byte is 0, and where it ends."""
    nbytes = unit * words
    strides, steps = [0] * len(counts), [0] * len(counts)
    reach = start = 0
    for k in rng.sample(range(len(counts)), len(counts)):
        stride = max(reach, nbytes) + unit * rng.randrange(3)
        if overlapping and rng.random() < 0.3:
            stride = unit * rng.randrange(3)
        if rng.random() < 0.3:
            start += (counts[k] - 1) * stride
            strides[k] = -stride
        else:
            strides[k] = stride
        reach = max(reach, nbytes) + (counts[k] - 1) * stride
    packed = nbytes
    for k in rng.sample(range(len(counts)), len(counts)) if rng.random() < 0.3 else reversed(range(len(counts))):
        steps[k] = packed
        packed *= counts[k]
    dims = tuple(map(Dim, counts, strides, steps))
    return StridedBlock(start, 0, nbytes, dims), max(reach, nbytes)
