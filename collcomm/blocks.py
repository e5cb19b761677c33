"""How an array is divided among ranks: rows along the first axis, and the elements that they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

Shape = tuple[int, ...]


def checked_counts(counts: Sequence[int], size: int) -> list[int]:
    """``counts`` as ``size`` numbers of rows, none negative. Raises ValueError."""
    rows = [int(count) for count in counts]
    if len(rows) != size or min(rows) < 0:
        raise ValueError(f"counts must be {size} numbers, none negative, not {list(counts)}")
    return rows


def rows_of_block(shape: Shape, counts: Sequence[int] | None, size: int, rank: int) -> list[int]:
    """Rows of every rank's block, where an array of ``shape`` is the block of ``rank``."""
    length = shape[0] if shape else 1
    if counts is None:
        return [length] * size
    rows = checked_counts(counts, size)
    _agree(length, rows[rank])
    return rows


def rows_of_whole(shape: Shape, counts: Sequence[int] | None, size: int) -> list[int]:
    """Rows of every rank's block, where an array of ``shape`` holds all blocks."""
    length = shape[0] if shape else 1
    if counts is not None:
        rows = checked_counts(counts, size)
        _agree(length, sum(rows))
        return rows
    if length % size:
        raise ValueError(f"x has {length} rows, which {size} ranks cannot share equally; give counts, one per rank")
    return [length // size] * size


def items_of_whole(counts: Sequence[int] | None, size: int) -> int:
    """Items of a datatype in a buffer with the blocks of all ranks."""
    return size if counts is None else sum(checked_counts(counts, size))


def items_of_block(counts: Sequence[int] | None, rank: int) -> int:
    """Items of a datatype in a buffer with the block of ``rank``."""
    return 1 if counts is None or rank >= len(counts) else int(counts[rank])


def _agree(length: int, expected: int) -> None:
    if length != expected:
        raise ValueError(f"x has {length} rows along its first axis, counts say {expected}")


def elements(rows: Sequence[int], shape: Shape) -> tuple[int, ...]:
    """Elements of blocks of so many ``rows`` of an array of ``shape``."""
    width = math.prod(shape[1:])
    return tuple(count * width for count in rows)
