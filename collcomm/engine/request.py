"""What a user asked of a communicator, in terms of the view in which the call was made.

Sizes are in elements. A block of an uneven or per-rank collective belongs to a *member*, not to a position: when members die
and the operation is retried, the blocks of the dead drop out and all others keep their owner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import xxhash

from ..types import Call
from .reduction import ufunc_for

EVEN_KINDS = frozenset({"all_reduce", "broadcast", "reduce"})  # one size everywhere, split as the algorithm likes
ROOTED_KINDS = frozenset({"broadcast", "reduce", "gather", "scatter"})
ALIGNMENT = 64  # elements; chunk borders fall on it where chunks are large


@dataclass(frozen=True, eq=False)
class Request:
    """Made by `request`, which gives the same object for the same arguments.

    ``counts``: elements of each rank's block (all_gather, reduce_scatter, gather, scatter). ``sends`` and ``receives``:
    of all_to_all, per rank, and known to this peer only. ``extra``: anything else that peers must agree on. ``part_of``: the call
    of the user that this is a part of, in words; they must agree on it, too."""

    kind: str
    dtype: np.dtype[Any]
    size: int = 0
    op: str = ""
    root: int = -1
    counts: tuple[int, ...] = ()
    sends: tuple[int, ...] = ()
    receives: tuple[int, ...] = ()
    extra: str = ""
    part_of: str = ""

    @cached_property
    def call(self) -> Call:
        """The part that all peers must have in common, as a fingerprint and in words."""
        words = [self.op] if self.op else []
        words.append(self.dtype.name)
        if self.counts and len(set(self.counts)) > 1:
            words.append(f"blocks of {', '.join(map(str, self.counts[:8]))}{', ...' * (len(self.counts) > 8)} elements")
        elif self.counts:
            words.append(f"{len(self.counts)} blocks of {self.counts[0]} elements")
        elif self.kind in EVEN_KINDS:
            words.append(f"{self.size} elements")
        if self.root >= 0:
            words.append(f"root {self.root}")
        if self.extra:
            words.append(self.extra)
        extra = self.extra + self.part_of
        identity = (self.kind, self.op, self.dtype.name, self.size, self.root, self.counts, extra)
        text = self.part_of or f"{self.kind}({', '.join(words)})"
        return Call(xxhash.xxh32_intdigest(repr(identity).encode()), text)

    @cached_property
    def fingerprint(self) -> int:
        return self.call.fingerprint

    @cached_property
    def ufunc(self) -> np.ufunc:
        """What reduces two operands. Raises ValueError or TypeError saying what does work."""
        return ufunc_for(self.op, self.dtype)

    @cached_property
    def on_device(self) -> Request:
        """The same request for arrays that stay on devices: all peers must give such, or none."""
        return replace(self, extra="in device memory")

    def nbytes(self) -> int:
        """Bytes by which an algorithm is chosen; the same at every rank, and 0 for an all_to_all of uneven blocks."""
        if self.kind in EVEN_KINDS or self.kind == "all_to_all":
            return self.size * self.dtype.itemsize
        return sum(self.counts) * self.dtype.itemsize

    @property
    def fits_windows(self) -> bool:
        """Whether all ranks know how large the pieces are; not so when an all_to_all has blocks of different sizes."""
        return self.kind != "all_to_all" or self.size > 0

    def input_counts(self) -> tuple[int, ...]:
        """Sizes of the per-rank blocks of the input; empty where the input is one piece."""
        if self.kind in ("reduce_scatter", "scatter"):
            return self.counts
        return self.sends

    def largest(self, bounds: Mapping[str, Sequence[int]], alive: Sequence[int]) -> int:
        """Elements of the largest piece of any rank, as all ranks know it. Not for an all_to_all of uneven blocks."""
        if self.kind in EVEN_KINDS:
            return max(high - low for edges in bounds.values() for low, high in pairwise(edges))
        return max((self.counts or self.sends)[rank] for rank in alive)

    def bounds(self, chunks: dict[str, int], alive: Sequence[int], me: int) -> dict[str, list[int]]:
        """Where the chunks of each buffer start and end, for the ranks ``alive`` of the call's view, as rank ``me`` of it.

        Scratch of an all_to_all is for equal blocks."""
        if self.kind in EVEN_KINDS:
            return {buffer: _even(self.size, count) for buffer, count in chunks.items()}
        whole = {buffer: count for buffer, count in chunks.items() if count}
        found = {}
        for buffer, count in whole.items():
            if self.kind == "all_to_all" and buffer == "tmp":
                sizes = [self.sends[me]] * count
            elif self.kind == "all_to_all":
                sizes = [(self.sends if buffer == "in" else self.receives)[rank] for rank in alive]
            elif count == len(alive) and not self._own_only(buffer):
                sizes = [self.counts[rank] for rank in alive]
            else:
                sizes = [self.counts[me]]
            found[buffer] = _edges(sizes)
        return found

    def _own_only(self, buffer: str) -> bool:
        """Whether a buffer holds this rank's block only (a group of one cannot tell by counting)."""
        single = "in" if self.kind in ("all_gather", "gather") else "out"
        return buffer == single


def _edges(sizes: Sequence[int]) -> list[int]:
    edges = [0]
    for size in sizes:
        edges.append(edges[-1] + size)
    return edges


@lru_cache(maxsize=1024)
def _split(size: int, chunks: int) -> tuple[int, ...]:
    grain = ALIGNMENT if size >= chunks * ALIGNMENT * 4 else 1
    return (*(index * size // chunks // grain * grain for index in range(chunks)), size)


def _even(size: int, chunks: int) -> list[int]:
    return list(_split(size, max(1, chunks)))


@lru_cache(maxsize=4096)
def request(
    kind: str,
    dtype: np.dtype[Any],
    size: int = 0,
    op: str = "",
    root: int = -1,
    counts: tuple[int, ...] = (),
    sends: tuple[int, ...] = (),
    receives: tuple[int, ...] = (),
    extra: str = "",
    part_of: str = "",
) -> Request:
    """The request with these fields; plans and fingerprints are kept with it."""
    return Request(kind, dtype, size, op, root, counts, sends, receives, extra, part_of)
