"""A shard: named arrays and a small ``meta``, laid out in one row of bytes, and how that is described to others."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgpack
import numpy as np

from ..engine.reduction import is_supported
from ..hostviews import Array, as_numpy
from ..tensors import is_tensor, tensor_of

ALIGNMENT = 64  # bytes, of each array in the row: a cache line, and enough for any dtype
MOST_ARRAYS = 1 << 20
MOST_INDEX_BYTES = 64 << 20  # of names, shapes and meta
MOST_BYTES = 1 << 46  # of one shard; what is announced beyond is rubbish


@dataclass(frozen=True)
class Field:
    """One array. ``first``: its first byte in the row; ``tensor``: the caller's was a tensor of torch."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    tensor: bool
    first: int

    @property
    def nbytes(self) -> int:
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size

    def of(self, row: Array) -> Array:
        """Its bytes in ``row``."""
        return row[self.first : self.first + self.nbytes]


@dataclass(frozen=True)
class Layout:
    """Arrays in a row, sorted by name, and the ``meta`` that goes with them: anything that msgpack can hold."""

    fields: tuple[Field, ...]
    meta: Any = None

    @cached_property
    def nbytes(self) -> int:
        return _padded(self.fields[-1].first + self.fields[-1].nbytes) if self.fields else 0

    def encoded(self) -> Array:
        """As bytes. Raises TypeError for a meta that msgpack cannot hold, ValueError for one that is too large."""
        rows = [[field.name, field.dtype.name, list(field.shape), field.tensor] for field in self.fields]
        try:
            data = msgpack.packb([rows, self.meta])
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"meta: {error}; msgpack must be able to hold it") from None
        if len(data) > MOST_INDEX_BYTES:
            raise ValueError(f"names, shapes and meta take {len(data)} bytes; more than {MOST_INDEX_BYTES} are refused")
        return np.frombuffer(data, np.uint8)

    @classmethod
    def decoded(cls, data: Array) -> Layout:
        """Of `encoded` bytes. Raises ValueError for anything else."""
        try:
            rows, meta = msgpack.unpackb(data.tobytes(), strict_map_key=False)
            fields = [(name, dtype_of(dtype), shape, tensor) for name, dtype, shape, tensor in rows]
        except (TypeError, ValueError, msgpack.UnpackException) as error:
            raise ValueError(f"this does not describe a shard: {error}") from None
        return cls(_in_a_row(fields), meta)


def described(arrays: Mapping[str, Any], meta: Any) -> tuple[Layout, list[Array]]:
    """The layout of a shard, and its arrays in that order as numpy sees them, in the caller's memory.

    :raises TypeError: what is no array, or is of a dtype that cannot be sent.
    :raises ValueError: too many arrays, or a name that is no string.
    :raises UnsupportedTransport: an array in device memory.
    """
    for name in arrays:
        if not isinstance(name, str):
            raise ValueError(f"arrays have names, not {name!r}")
    seen = {name: as_numpy(arrays[name], name) for name in sorted(arrays)}
    for name, array in seen.items():
        if not is_supported(array.dtype):
            raise TypeError(f"{name}: dtype {array.dtype} cannot be sent; convert it to a number type first")
    rows = [(name, array.dtype, list(array.shape), is_tensor(arrays[name])) for name, array in seen.items()]
    return Layout(_in_a_row(rows), meta), list(seen.values())


def written(layout: Layout, arrays: list[Array], row: Array) -> None:
    """Copy the arrays into ``row``."""
    for field, array in zip(layout.fields, arrays, strict=True):
        np.copyto(field.of(row).view(field.dtype).reshape(field.shape), array)


def pieces(layout: Layout, row: Array) -> Iterator[Array]:
    """The bytes of each array in ``row``; those of empty ones are left out."""
    return (field.of(row) for field in layout.fields if field.nbytes)


def restored(layout: Layout, row: Array) -> dict[str, Any]:
    """New arrays of the kinds that the caller gave: tensors where his program has imported torch, else numpy arrays."""
    found: dict[str, Any] = {}
    for field in layout.fields:
        array = np.empty(field.shape, field.dtype)
        np.copyto(array, field.of(row).view(field.dtype).reshape(field.shape))
        found[field.name] = tensor_of(array) if field.tensor and "torch" in sys.modules else array
    return found


def dtype_of(name: Any) -> np.dtype[Any]:
    """The dtype of that name. Raises ValueError."""
    try:
        dtype = np.dtype(name) if isinstance(name, str) else None
    except TypeError:
        dtype = None
    if dtype is None or dtype.name != name or not is_supported(dtype):
        raise ValueError(f"{name!r} is no dtype of an array")
    return dtype


def _in_a_row(rows: list[tuple[Any, np.dtype[Any], Any, Any]]) -> tuple[Field, ...]:
    """Raises ValueError for names, shapes or sizes that cannot be."""
    if len(rows) > MOST_ARRAYS:
        raise ValueError(f"{len(rows)} arrays; more than {MOST_ARRAYS} are refused")
    fields: list[Field] = []
    first = 0
    for name, dtype, shape, tensor in rows:
        if not isinstance(name, str) or not all(isinstance(n, int) and 0 <= n <= MOST_BYTES for n in shape):
            raise ValueError(f"{name!r} of shape {shape!r} is no array")
        fields.append(Field(name, dtype, tuple(shape), bool(tensor), first))
        first = _padded(first + fields[-1].nbytes)
        if first > MOST_BYTES:
            raise ValueError(f"a shard of more than {MOST_BYTES} bytes is refused")
    return tuple(fields)


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
