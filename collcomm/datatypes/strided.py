"""A box of equally spaced runs of bytes: what one kernel, or one call of numpy, copies."""

from __future__ import annotations

from typing import NamedTuple


class Dim(NamedTuple):
    """``count`` repetitions, ``stride`` bytes apart in the strided memory (may be negative or 0), ``packed`` in the packed."""

    count: int  # type: ignore[assignment]  # hides tuple's method, which nobody asks of it
    stride: int
    packed: int


class StridedBlock(NamedTuple):
    """Runs of ``nbytes`` bytes; the first begins at byte ``start`` of the strided memory (relative to its origin, may be
    negative) and goes to byte ``packed`` of the packed memory. ``dims``: from the outermost to the innermost."""

    start: int
    packed: int
    nbytes: int
    dims: tuple[Dim, ...] = ()

    @property
    def size(self) -> int:
        """Bytes in all."""
        size = self.nbytes
        for dim in self.dims:
            size *= dim.count
        return size
