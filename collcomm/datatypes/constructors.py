"""Constructors with MPI's names and meanings. Displacements of h-types and of struct are in bytes, all others in extents of
the old type. Wherever a datatype is expected, a numpy dtype (or its name, or a scalar type) does as well; one with fields is a
struct.

Errors: ValueError for negative counts, lists of unequal length, offsets beyond 2**62 bytes, and layouts without a regular form
in too many pieces; TypeError for what is no whole number, or no dtype.

Bounds are those of the standard: of the type map itself, padded to the alignment of its elements, or, where parts of it have
been resized, the outermost bounds of these parts alone. (Open MPI 5 takes bounds of the parts in any case: it counts the padding
of an inner type to the elements of the outer one, and the origin of parts that are empty.)
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from .canonical import concatenate, of_runs, repeat
from .datatype import MAX_BYTES, Datatype, check_reach
from .layout import EMPTY, Layout, Run, all_runs, check_runs

Old = Datatype | Any  # a datatype, or what numpy takes for a dtype
Numbers = Sequence[int] | np.ndarray[Any, Any]


def as_datatype(old: Old) -> Datatype:
    """``old`` itself, or the datatype of one numpy element."""
    if isinstance(old, Datatype):
        return old
    if old is None:  # numpy would read it as float64
        raise TypeError("None is no datatype; name the dtype of the elements")
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
    stride = _whole(stride, "stride")
    layout = repeat(repeat(old.layout, blocklength, old.extent), count, stride)
    if not (count and blocklength):
        return _built(layout, old, [])
    down, across = (count - 1) * stride, (blocklength - 1) * old.extent
    return _built(layout, old, [0, down, across, down + across])


def indexed(blocklengths: Numbers, displacements: Numbers, old: Old) -> Datatype:
    """Blocks of so many items, so many extents from the origin."""
    old = as_datatype(old)
    starts = _numbers(displacements, "displacements", abs(old.extent))
    return hindexed(blocklengths, starts * old.extent, old)


def hindexed(blocklengths: Numbers, displacements: Numbers, old: Old) -> Datatype:
    """Blocks of so many items, so many bytes from the origin."""
    old = as_datatype(old)
    lengths = _numbers(blocklengths, "blocklengths", abs(old.extent))
    starts = _numbers(displacements, "displacements")
    if len(lengths) != len(starts):
        raise ValueError(f"there are {len(lengths)} blocklengths and {len(starts)} displacements; give as many of both")
    if len(lengths) and lengths.min() < 0:
        raise ValueError(f"blocklengths must not be negative, as {lengths.min()} is")
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    if not len(starts):
        return _built(EMPTY, old, [])
    ends = starts + (lengths - 1) * old.extent
    corners = [int(starts.min()), int(starts.max()), int(ends.min()), int(ends.max())]
    return _built(_blocks(lengths, starts, old), old, corners)


def indexed_block(blocklength: int, displacements: Numbers, old: Old) -> Datatype:
    """Blocks of ``blocklength`` items each, so many extents from the origin."""
    return indexed([_count(blocklength, "blocklength")] * len(displacements), displacements, old)


def hindexed_block(blocklength: int, displacements: Numbers, old: Old) -> Datatype:
    """Blocks of ``blocklength`` items each, so many bytes from the origin."""
    return hindexed([_count(blocklength, "blocklength")] * len(displacements), displacements, old)


def struct(blocklengths: Sequence[int], displacements: Sequence[int], olds: Sequence[Old]) -> Datatype:
    """Blocks of so many items of each of ``olds``, so many bytes from the origin."""
    if not len(blocklengths) == len(displacements) == len(olds):
        raise ValueError(
            f"there are {len(blocklengths)} blocklengths, {len(displacements)} displacements and {len(olds)} "
            f"datatypes; give as many of each"
        )
    parts = []
    for length, given_start, given in zip(blocklengths, displacements, olds, strict=True):
        start, old = _whole(given_start, "displacement"), as_datatype(given)
        if _count(length, "blocklength"):
            parts.append((contiguous(length, old), start))
    there = [(part.layout.low + start, part.layout.high + start) for part, start in parts if part.size]
    if there:
        check_reach(min(low for low, _ in there), max(high for _, high in there))
    layout = concatenate(part.layout.shifted(start) for part, start in parts)
    elements = {part.element for part, _ in parts if part.size}
    alignment = max((part.alignment for part, _ in parts), default=1)
    element = elements.pop() if len(elements) == 1 else None
    given_bounds = [(part.lb + start, part.ub + start) for part, start in parts if part.bounds_given]
    return _bounded(layout, element, alignment, given_bounds)


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
    dims = [
        tuple(_whole(value, "a size or start") for value in dim) for dim in zip(sizes, subsizes, starts, strict=True)
    ]
    for size, subsize, start in dims:
        if not (0 < subsize <= size and 0 <= start <= size - subsize):
            raise ValueError(f"{subsize} items from {start} on are not within a dimension of {size}")
    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    layout, pitch, offset = old.layout, old.extent, 0
    for size, subsize, start in dims if order == "F" else reversed(dims):
        layout = repeat(layout, subsize, pitch)
        offset += start * pitch
        pitch *= size
    return Datatype(layout.shifted(offset), 0, pitch, old.element, old.alignment, True)


def resized(old: Old, lb: int, extent: int) -> Datatype:
    """The same item with other bounds."""
    old = as_datatype(old)
    return Datatype(old.layout, _whole(lb, "lb"), _whole(extent, "extent"), old.element, old.alignment, True)


def _blocks(lengths: np.ndarray[Any, Any], starts: np.ndarray[Any, Any], old: Datatype) -> Layout:
    """``lengths`` items of ``old`` at ``starts``."""
    if not old.size:
        return EMPTY
    ends = starts + (lengths - 1) * old.extent
    check_reach(
        min(int(starts.min()), int(ends.min())) + old.layout.low,
        max(int(starts.max()), int(ends.max())) + old.layout.high,
    )
    if old.layout == Run(0, old.extent):
        return of_runs(starts, lengths * old.extent)
    if len(starts) == 1:
        return repeat(old.layout, int(lengths[0]), old.extent).shifted(int(starts[0]))
    check_runs(int(lengths.max()))  # so that the sum is one of 64 bits
    check_runs(int(lengths.sum()) * old.layout.runs)
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = np.repeat(starts, lengths) + (np.arange(len(before)) - before) * old.extent
    inner, sizes = all_runs(old.layout)
    return of_runs((items[:, None] + inner).reshape(-1), np.tile(sizes, len(items)))


def _built(layout: Layout, old: Datatype, corners: list[int]) -> Datatype:
    """Of copies of ``old``, the outermost at these offsets."""
    given_bounds = [(old.lb + offset, old.ub + offset) for offset in corners if old.bounds_given]
    return _bounded(layout, old.element, old.alignment, given_bounds)


def _bounded(
    layout: Layout, element: np.dtype[Any] | None, alignment: int, given_bounds: list[tuple[int, int]]
) -> Datatype:
    """With MPI's bounds. ``given_bounds``: lower and upper ones of parts that have been resized."""
    if given_bounds:
        lb = min(lower for lower, _ in given_bounds)
        ub = max(upper for _, upper in given_bounds)
        return Datatype(layout, lb, ub - lb, element, alignment, True)
    if not layout.size:
        return Datatype(layout, 0, 0, element)
    span = layout.high - layout.low
    return Datatype(layout, layout.low, span + -span % alignment, element, alignment)


def _whole(value: int, what: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} must be a whole number, not {value!r}") from None


def _count(value: int, what: str) -> int:
    number = _whole(value, what)
    if number < 0:
        raise ValueError(f"{what} must not be negative, as {value} is")
    return number


def _numbers(values: Numbers, what: str, extent: int = 1) -> np.ndarray[Any, np.dtype[np.int64]]:
    """As an array of 64 bits, in which multiples of ``extent`` will find room, too."""
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuO"):
        raise TypeError(f"{what} must be a list of whole numbers, not {values!r}")
    if not array.size:
        return np.empty(0, np.int64)
    if array.dtype.kind == "O":  # for one, numbers that numpy has no room for
        array = np.array([_whole(value, what) for value in array], object)
    low, high = int(array.min()), int(array.max())
    if max(-low, high) * max(1, extent) > MAX_BYTES:
        raise ValueError(f"{what} may reach over {MAX_BYTES} bytes at most, not from {low} to {high} times {extent}")
    return array.astype(np.int64)
