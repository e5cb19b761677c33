"""What a rank tells the others about one checked call: hashes and checksums, as one row of 64-bit words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .health.checksums import Suspicion, Way, block_sums, digest, suspicion
from .types import View

Array = np.ndarray[Any, Any]
HASH_WORDS = 2
_EMPTY: Array = np.empty(0, np.uint64)


class Contribution:
    """Of ``data``, as it was before the operation. Costs a pass for the hash, and one for the sums; keeps 16 bytes for 1,024
    numbers."""

    def __init__(self, data: Array, way: Way | None):
        self.data = data
        self.way = way
        self.hash = digest(data)
        self.sums, self.scales = _EMPTY, _EMPTY
        if way is not None and way is not Way.TWICE:
            self.sums, self.scales = block_sums(data, way)

    def row(self, result: Array, differences: Array | None) -> Array:
        """What to tell when ``result`` has come. ``differences``: of a second run."""
        after = (
            block_sums(result, self.way, scaled=False)[0]
            if differences is None and self.way is not None
            else differences
        )
        assert after is not None
        parts = (self.hash, digest(self.data), digest(result), self.sums, self.scales, after)
        return np.concatenate([part.view(np.uint64) for part in parts])


@dataclass(frozen=True)
class Table:
    """The rows of all members of ``view``, for a reduction by ``op``."""

    rows: Array
    view: View
    way: Way
    op: str
    dtype: np.dtype[Any]

    @property
    def changed(self) -> list[bool]:
        """By rank: whether the contribution has changed since it was summed."""
        return [bool((row[:HASH_WORDS] != row[HASH_WORDS : 2 * HASH_WORDS]).any()) for row in self.rows]

    @property
    def copies(self) -> list[bytes]:
        """By rank: the hash of the result."""
        return [row[2 * HASH_WORDS : 3 * HASH_WORDS].tobytes() for row in self.rows]

    @property
    def before(self) -> Array:
        return self._sums(0)

    @property
    def after(self) -> Array:
        return self._sums(-1)

    def suspicion(self) -> Suspicion:
        scales = self._sums(1) if self.way is Way.ROUNDED else self.before
        return suspicion(self.way, self.op, self.dtype, self.before, scales, self.after)

    def _sums(self, which: int) -> Array:
        """A row for each rank."""
        kinds = {Way.ROUNDED: 3, Way.TWICE: 1}.get(self.way, 2)
        words = self.rows[:, 3 * HASH_WORDS :]
        parts = words.reshape(len(words), kinds, -1) if words.size else np.empty((len(words), kinds, 0), np.uint64)
        found: Array = np.ascontiguousarray(parts[:, which])
        return found.view(np.float64) if self.way is Way.ROUNDED else found
