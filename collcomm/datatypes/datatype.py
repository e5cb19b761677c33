"""A datatype in MPI's sense: which bytes of a buffer make one item, in which order, and how far apart items lie."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from .canonical import repeat
from .layout import Layout, strided_blocks
from .overlap import has_overlap
from .strided import StridedBlock

if TYPE_CHECKING:
    from .typedbuffer import TypedBuffer

MAX_BYTES = 1 << 62  # so that no sum of offsets leaves 64 bits
MAX_DEPTH = 30  # dimensions of one box: numpy 1 has 32, and items in a row and elements in a run take one each


@dataclass(frozen=True)
class Datatype:
    """Made by the constructors of `collcomm.datatypes`, which have MPI's names and meanings.

    Two datatypes are equal if their items are the same bytes in the same order, lie equally far apart, and consist of the
    same elements; how they were built makes no difference. ``lb``: the lower bound, in bytes from the item's origin;
    ``extent``: distance of one item's origin from the next. ``element``: the dtype of all elements, or None where they are
    of several: such items are moved as bytes, and cannot be reduced.
    """

    layout: Layout
    lb: int
    extent: int
    element: np.dtype[Any] | None
    alignment: int = field(default=1, compare=False)  # of the elements, to which MPI pads extents
    bounds_given: bool = field(default=False, compare=False)  # those of what is built of it come from its own alone

    def __post_init__(self) -> None:
        check_reach(self.layout.low, self.layout.high, self.lb, self.ub, self.extent, self.layout.size)
        if self.layout.depth > MAX_DEPTH:
            raise ValueError(f"a datatype may have {MAX_DEPTH} nested dimensions at most, not {self.layout.depth}")

    @property
    def size(self) -> int:
        """Bytes of one item, packed."""
        return self.layout.size

    @property
    def ub(self) -> int:
        """The upper bound: lb + extent."""
        return self.lb + self.extent

    @property
    def true_lb(self) -> int:
        """The first byte that belongs to the item, in bytes from its origin."""
        return self.layout.low

    @property
    def true_extent(self) -> int:
        """From the first byte that belongs to the item to the end of the last."""
        return self.layout.high - self.layout.low

    @property
    def wire_dtype(self) -> np.dtype[Any]:
        """What the packed bytes are sent as."""
        return _BYTE if self.element is None else self.element

    @cached_property
    def blocks(self) -> tuple[StridedBlock, ...]:
        """The item as the fewest strided blocks, in the packed order."""
        return strided_blocks(self.layout)

    @cached_property
    def overlaps(self) -> bool:
        """Whether some byte belongs to an item twice: such items can be sent and not received."""
        return has_overlap(self.layout)

    def items(self, count: int) -> Layout:
        """The layout of ``count`` items in a row."""
        layout = repeat(self.layout, count, self.extent)
        check_reach(layout.low, layout.high, layout.size)
        return layout

    def over(self, buffer: Any, count: int = 1, offset: int = 0) -> TypedBuffer:
        """``count`` items in ``buffer``, the first with its origin at byte ``offset``: stands where an array can."""
        from .typedbuffer import TypedBuffer

        return TypedBuffer(self, buffer, count, offset)

    def __repr__(self) -> str:
        element = "bytes" if self.element is None else self.element.name
        return f"<Datatype of {element}: {self.size} bytes in {len(self.blocks)} blocks, extent {self.extent}>"


_BYTE = np.dtype(np.uint8)


def check_reach(low: int, high: int, *others: int) -> None:
    """Raises ValueError where something is more than `MAX_BYTES` away: from the origin, or one end from the other."""
    furthest = max(map(abs, (low, high, high - low, *others)))
    if furthest > MAX_BYTES:
        raise ValueError(f"a datatype may reach over {MAX_BYTES} bytes at most, not {furthest}")
