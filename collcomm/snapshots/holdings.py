"""What one peer holds of its own and of others' shards: whole copies only, at most two of each owner.

A copy is known by its `Key`: the generation of the ring in which it was taken, and its number there, which are equal at all
members for the same snapshot. When one is known to be whole at all members, what is older goes, and its memory is used again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..hostviews import Array
from .shard import Layout

Key = tuple[int, int]  # generation, number
MOST_OF_ONE_OWNER = 2


@dataclass(frozen=True)
class Copy:
    """A whole copy of the shard of ``owner``, a member's id, as it was at ``step``."""

    key: Key
    step: int
    owner: int
    layout: Layout
    row: Array


class Holdings:
    """Copies, and the memory of those that went."""

    def __init__(self) -> None:
        self._copies: dict[tuple[Key, int], Copy] = {}
        self._spare: list[Array] = []

    def __iter__(self) -> Iterator[Copy]:
        return iter(list(self._copies.values()))

    @property
    def nbytes(self) -> int:
        """Of memory, used and spare."""
        rows = [copy.row for copy in self._copies.values()] + self._spare
        return sum(row.nbytes for row in rows)

    def find(self, key: Key, owner: int) -> Copy | None:
        return self._copies.get((key, owner))

    def room(self, nbytes: int) -> Array:
        """A row of so many bytes: the memory of a copy that went, where one fits. Raises MemoryError."""
        for index, row in enumerate(self._spare):
            if row.nbytes == nbytes:
                return self._spare.pop(index)
        self._spare.clear()  # sizes have changed
        return np.empty(nbytes, np.uint8)

    def give_back(self, row: Array) -> None:
        """A row from `room` that was not filled."""
        self._spare.append(row)

    def put(self, copy: Copy) -> None:
        """Hold ``copy``, which is whole."""
        others = [held for held in self if held.owner == copy.owner and held.key != copy.key]
        assert len(others) < MOST_OF_ONE_OWNER, "an older copy has not gone"
        self._copies[copy.key, copy.owner] = copy

    def keep_only(self, key: Key | None) -> None:
        """Let all go that are not of ``key``."""
        for held in self:
            if held.key != key:
                del self._copies[held.key, held.owner]
                self._spare.append(held.row)

    def trim(self) -> None:
        """Give spare memory back to the system."""
        self._spare.clear()
