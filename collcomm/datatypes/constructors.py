"""Constructors with MPI's names and meanings. Displacements of h-types and of struct are in bytes, all others in extents of
the old type. Wherever a datatype is expected, a numpy dtype (or its name, or a scalar type) does as well; one with fields is a
struct.

Errors: ValueError for negative counts, lists of unequal length, and layouts without a regular form in too many pieces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .canonical import concatenate, of_runs, repeat
from .datatype import Datatype
from .layout import EMPTY, Layout, Run, all_runs, check_runs

Old = Datatype | Any  # a datatype, or what numpy takes for a dtype
Numbers = Sequence[int] | np.ndarray[Any, Any]


def as_datatype(old: Old) -> Datatype:
    """``old`` itself, or the datatype of one numpy element."""
    if isinstance(old, Datatype):
        return old
    dtype = np.dtype(old)
    if dtype.hasobject:
        raise TypeError(f"{dtype} holds Python objects, which have no bytes to send")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return contiguous(math.prod(shape), base)
    if dtype.fields is not None:
        named = [dtype.fields[name] for name in dtype.names or ()]
        fields = struct([1] * len(named), [field[1] for field in named], [field[0] for field in named])
        return resized(fields, 0, dtype.itemsize)
    return Datatype(Run(0, dtype.itemsize) if dtype.itemsize else EMPTY, 0, dtype.itemsize, dtype, dtype.alignment)


def contiguous(count: int, old: Old) -> Datatype:
    """``count`` items in a row."""
    return vector(count, 1, 1, old)


def vector(count: int, blocklength: int, stride: int, old: Old) -> Datatype:
    """``count`` blocks of ``blocklength`` items, ``stride`` extents apart."""
    old = as_datatype(old)
    return hvector(count, blocklength, stride * old.extent, old)


def hvector(count: int, blocklength: int, stride: int, old: Old) -> Datatype:
    """``count`` blocks of ``blocklength`` items, ``stride`` bytes apart."""
    old = as_datatype(old)
    count, blocklength = _count(count, "count"), _count(blocklength, "blocklength")
    block = repeat(old.layout, blocklength, old.extent)
    corners = [
        row * stride + item * old.extent
        for row in {0, max(0, count - 1)}
        for item in {0, max(0, blocklength - 1)}
        if count and blocklength
    ]
    return _built(repeat(block, count, stride), old, corners, corners)


def indexed(blocklengths: Numbers, displacements: Numbers, old: Old) -> Datatype:
    """Blocks of so many items, so many extents from the origin."""
    old = as_datatype(old)
    return hindexed(blocklengths, _numbers(displacements, "displacements") * old.extent, old)


def hindexed(blocklengths: Numbers, displacements: Numbers, old: Old) -> Datatype:
    """Blocks of so many items, so many bytes from the origin."""
    old = as_datatype(old)
    lengths, starts = _numbers(blocklengths, "blocklengths"), _numbers(displacements, "displacements")
    if len(lengths) != len(starts):
        raise ValueError(f"there are {len(lengths)} blocklengths and {len(starts)} displacements; give as many of both")
    if len(lengths) and lengths.min() < 0:
        raise ValueError(f"blocklengths must not be negative, as {lengths.min()} is")
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    ends = starts + (lengths - 1) * old.extent
    first, last = (starts, ends) if old.extent >= 0 else (ends, starts)
    corners = [int(first.min()), int(last.max())] if len(starts) else []
    return _built(_blocks(lengths, starts, old), old, corners, corners)


def indexed_block(blocklength: int, displacements: Numbers, old: Old) -> Datatype:
    """Blocks of ``blocklength`` items each, so many extents from the origin."""
    return indexed([blocklength] * len(displacements), displacements, old)


def hindexed_block(blocklength: int, displacements: Numbers, old: Old) -> Datatype:
    """Blocks of ``blocklength`` items each, so many bytes from the origin."""
    return hindexed([blocklength] * len(displacements), displacements, old)


def struct(blocklengths: Sequence[int], displacements: Sequence[int], olds: Sequence[Old]) -> Datatype:
    """Blocks of so many items of each of ``olds``, so many bytes from the origin."""
    if not len(blocklengths) == len(displacements) == len(olds):
        raise ValueError(
            f"there are {len(blocklengths)} blocklengths, {len(displacements)} displacements and {len(olds)} "
            f"datatypes; give as many of each"
        )
    parts = []
    for length, start, given in zip(blocklengths, displacements, olds, strict=True):
        old = as_datatype(given)
        if _count(length, "blocklength"):
            parts.append((contiguous(length, old), int(start)))
    layout = concatenate(part.layout.shifted(start) for part, start in parts)
    elements = {part.element for part, _ in parts if part.size}
    alignment = max((part.alignment for part, _ in parts), default=1)
    element = elements.pop() if len(elements) == 1 else None
    lower = [(part.lb + start, part.lb_given) for part, start in parts]
    upper = [(part.ub + start, part.ub_given) for part, start in parts]
    return _bounded(layout, element, alignment, lower, upper)


def subarray(
    sizes: Sequence[int], subsizes: Sequence[int], starts: Sequence[int], old: Old, order: str = "C"
) -> Datatype:
    """The box of ``subsizes`` at ``starts`` in an array of ``sizes`` items; ``order``: "C", or "F" with the first dimension
    running fastest. The extent is that of the whole array."""
    old = as_datatype(old)
    if not len(sizes) == len(subsizes) == len(starts) or not len(sizes):
        raise ValueError(
            f"sizes, subsizes and starts must be equally long, and not empty: {sizes}, {subsizes}, {starts}"
        )
    for size, subsize, start in zip(sizes, subsizes, starts, strict=True):
        if not (0 < subsize <= size and 0 <= start <= size - subsize):
            raise ValueError(f"{subsize} items from {start} on are not within a dimension of {size}")
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    layout, pitch, offset = old.layout, old.extent, 0
    dims = list(zip(sizes, subsizes, starts, strict=True))
    for size, subsize, start in dims if order == "F" else reversed(dims):
        layout = repeat(layout, subsize, pitch)
        offset += start * pitch
        pitch *= size
    return Datatype(layout.shifted(offset), 0, pitch, old.element, old.alignment, True, True)


def resized(old: Old, lb: int, extent: int) -> Datatype:
    """The same item with other bounds."""
    old = as_datatype(old)
    return Datatype(old.layout, int(lb), int(extent), old.element, old.alignment, True, True)


def _blocks(lengths: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], old: Datatype) -> Layout:
    """``lengths`` items of ``old`` at ``starts``."""
    if not len(starts):
        return EMPTY
    if old.layout == Run(0, old.extent):
        return of_runs(starts, lengths * old.extent)
    if len(starts) == 1:
        return repeat(old.layout, int(lengths[0]), old.extent).shifted(int(starts[0]))
    check_runs(int(lengths.sum()) * old.layout.runs)
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = np.repeat(starts, lengths) + (np.arange(len(before)) - before) * old.extent
    inner, sizes = all_runs(old.layout)
    return of_runs((items[:, None] + inner).reshape(-1), np.tile(sizes, len(items)))


def _built(layout: Layout, old: Datatype, lower: list[int], upper: list[int]) -> Datatype:
    """Of copies of ``old``, the outermost at these offsets."""
    return _bounded(
        layout,
        old.element,
        old.alignment,
        [(old.lb + offset, old.lb_given) for offset in lower],
        [(old.ub + offset, old.ub_given) for offset in upper],
    )


def _bounded(
    layout: Layout,
    element: np.dtype[Any] | None,
    alignment: int,
    lower: list[tuple[int, bool]],
    upper: list[tuple[int, bool]],
) -> Datatype:
    """With MPI's bounds: where one of the parts was resized, only the resized ones count; else the extent is padded to what
    the elements' alignment asks for."""
    lb_given, ub_given = any(given for _, given in lower), any(given for _, given in upper)
    lb = min((bound for bound, given in lower if given or not lb_given), default=0)
    ub = max((bound for bound, given in upper if given or not ub_given), default=0)
    if not ub_given:
        ub += -(ub - lb) % alignment
    return Datatype(layout, lb, ub - lb, element, alignment, lb_given, ub_given)


def _count(value: int, what: str) -> int:
    number = int(value)
    if number < 0 or number != value:
        raise ValueError(f"{what} must be a number from 0, not {value!r}")
    return number


def _numbers(values: Numbers, what: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{what} must be a list of whole numbers, not {values!r}")
    return array.astype(np.int64)
