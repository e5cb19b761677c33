"""Shared state as a sequence of chunks, with hashes: xxh3 of 128 bits per chunk, and of all chunks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from ..arrays import HostArray

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
CHUNK_BYTES = 1 << 20  # small enough to move little for a small difference, large enough to hash at memory speed
DIGEST_BYTES = 16


class Content:
    """The arrays of a state as one sequence of chunks, in the order of their names. Call `rehash` before the hashes count.

    ``schema``: what peers must have in common, a line per array. ``hashes``: a row per chunk, of what it held when it was
    hashed last.
    """

    def __init__(self, state: Mapping[str, Any]):
        self.arrays = {name: HostArray(state[name], f"state {name!r}") for name in sorted(state)}
        for name, array in self.arrays.items():
            array.require_writable(f"state {name!r}")
            array.fetch()
        self.schema = [f"{name}: {a.dtype.name} {list(a.shape)}" for name, a in self.arrays.items()]
        self.chunks: list[Bytes] = []
        self._places: list[tuple[Bytes, int]] = []  # the array's bytes, and where in them a chunk begins
        for array in self.arrays.values():
            data = array.flat.view(np.uint8)
            for start in range(0, data.size, CHUNK_BYTES):
                self.chunks.append(data[start : start + CHUNK_BYTES])
                self._places.append((data, start))
        self.sizes = [chunk.size for chunk in self.chunks]
        self.hashes = np.zeros((len(self.chunks), DIGEST_BYTES), np.uint8)

    def rehash(self, indices: Sequence[int] | None = None) -> None:
        for index in range(len(self.chunks)) if indices is None else indices:
            self.hashes[index] = np.frombuffer(xxhash.xxh3_128_digest(self.chunks[index].data), np.uint8)

    @property
    def schema_digest(self) -> bytes:
        return xxhash.xxh3_128_digest("\n".join(self.schema).encode())

    @property
    def root(self) -> bytes:
        """One hash for the whole content."""
        return xxhash.xxh3_128_digest(self.schema_digest + self.hashes.tobytes())

    def in_place(self, chunks: Sequence[int]) -> Bytes | None:
        """The memory of ``chunks`` where they lie one behind the other, else None."""
        if not chunks or list(chunks) != list(range(chunks[0], chunks[-1] + 1)):
            return None
        data, start = self._places[chunks[0]]
        last, end = self._places[chunks[-1]]
        return data[start : end + self.sizes[chunks[-1]]] if last is data else None

    def packed(self, chunks: Sequence[int]) -> Bytes:
        """The bytes of ``chunks``; a copy only where they are scattered."""
        found = self.in_place(chunks)
        if found is not None:
            return found
        return np.concatenate([self.chunks[chunk] for chunk in chunks]) if chunks else np.empty(0, np.uint8)

    def put(self, chunks: Sequence[int], data: Bytes) -> None:
        """Write ``data`` to where ``chunks`` belong. It may lie in their own memory, in place or further to the front."""
        end = data.size
        for chunk in reversed(chunks):
            source, target = data[end - self.sizes[chunk] : end], self.chunks[chunk]
            if source.ctypes.data != target.ctypes.data:
                target[:] = source
            end -= self.sizes[chunk]

    def write_back(self) -> None:
        """After the chunks were overwritten: arrays that are not contiguous get their values, too."""
        for array in self.arrays.values():
            array.put()


@dataclass(frozen=True)
class Claim:
    """What one peer says it has. ``revision``: -1 for nothing; ``lineage``: the revision that it last synced at, -1 never."""

    name: str
    revision: int
    lineage: int
    schema: bytes
    root: bytes
