"""A box that processes share, and the exchange of what lies at the blocks' edges.

The box is periodic: what leaves it on one side comes in on the other. Each process has one block of its cells and, around it,
a halo: copies of its neighbours' outermost cells. In 3-D a block has 26 neighbours: 6 share a face with it, 12 an edge, 8 a
corner. Some of them may be the same process, or the process itself, if there are few.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

import collcomm
from collcomm import datatypes

Field = np.ndarray[Any, np.dtype[np.float32]]
Box = tuple[slice, ...]
DIRECTIONS = [direction for direction in product((-1, 0, 1), repeat=3) if any(direction)]


def near_cube(processes: int) -> tuple[int, ...]:
    """The three-dimensional grid of ``processes`` that is nearest to a cube, and so has the smallest halos."""
    grids = [
        (processes // (b * c), b, c)
        for b, c in product(range(1, processes + 1), repeat=2)
        if processes % (b * c) == 0 and processes // (b * c) >= b >= c
    ]
    return min(grids, key=sum)


class ProcessGrid:
    """Which process has which block of a box of ``size`` cells along each edge."""

    def __init__(self, size: int, processes: int):
        self.shape = near_cube(processes)
        self.processes = processes
        self._cuts = [[size * i // parts for i in range(parts + 1)] for parts in self.shape]

    def place(self, rank: int) -> tuple[int, ...]:
        """Where a process stands in the grid."""
        return tuple(int(i) for i in np.unravel_index(rank, self.shape))

    def neighbour(self, rank: int, direction: tuple[int, ...]) -> int:
        """Who stands one step further; round the box at its sides."""
        there = [i + step for i, step in zip(self.place(rank), direction, strict=True)]
        return int(np.ravel_multi_index(there, self.shape, mode="wrap"))

    def block(self, rank: int) -> Box:
        """Its cells."""
        return tuple(slice(cuts[i], cuts[i + 1]) for cuts, i in zip(self._cuts, self.place(rank), strict=True))


class Halo:
    """The halo of one process, ``depth`` cells deep, in ``field``: its block with the halo around it.

    Everything that goes to one process, up to 26 boxes, is described once as one datatype. An exchange is one all_to_all, which
    takes the cells from where they lie and puts them where they belong.
    """

    def __init__(self, grid: ProcessGrid, rank: int, field: Field, depth: int):
        self.depth = depth
        self.inside = (slice(depth, -depth),) * 3
        outgoing: list[list[Box]] = [[] for _ in range(grid.processes)]
        incoming: list[list[Box]] = [[] for _ in range(grid.processes)]
        for direction in DIRECTIONS:  # what I send in this direction, the receiver gets from the other one
            back = tuple(-step for step in direction)
            outgoing[grid.neighbour(rank, direction)].append(self._box(field, direction, inner=True))
            incoming[grid.neighbour(rank, back)].append(self._box(field, back, inner=False))
        self.sends = [_typed(field, boxes) for boxes in outgoing]
        self.receives = [_typed(field, boxes) for boxes in incoming]

    def exchange(self, comm: collcomm.Communicator) -> None:
        """Fill the halo with the neighbours' cells as they are now."""
        comm.all_to_all(self.sends, out=self.receives)

    def _box(self, field: Field, direction: tuple[int, ...], inner: bool) -> Box:
        """What lies at that side of the block: its own cells there (``inner``), or the halo beyond them."""
        depth = self.depth
        sides = []
        for edge, step in zip(field.shape, direction, strict=True):
            before = slice(depth, 2 * depth) if inner else slice(0, depth)
            behind = slice(edge - 2 * depth, edge - depth) if inner else slice(edge - depth, edge)
            sides.append({-1: before, 0: slice(depth, edge - depth), 1: behind}[step])
        return tuple(sides)


def _typed(field: Field, boxes: list[Box]) -> Any:
    """Boxes of ``field`` as one thing to send or receive; None if there are none."""
    if not boxes:
        return None
    parts = [
        datatypes.subarray(field.shape, [side.stop - side.start for side in box], [side.start for side in box], "f4")
        for box in boxes
    ]
    return datatypes.struct([1] * len(parts), [0] * len(parts), parts).over(field)


def collect(comm: collcomm.Communicator, grid: ProcessGrid, block: Field, size: int) -> Field | None:
    """The whole box at rank 0, each block received right into its place; None elsewhere."""
    if comm.rank:
        comm.all_to_all([block] + [None] * (comm.size - 1), out=[None] * comm.size)
        return None
    whole = np.empty((size,) * 3, np.float32)
    comm.all_to_all([block] + [None] * (comm.size - 1), out=[whole[grid.block(rank)] for rank in range(comm.size)])
    return whole
