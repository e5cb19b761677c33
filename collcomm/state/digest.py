"""Hashes of shared state: xxh3 of 128 bits per chunk, and of all chunks together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from ..arrays import HostArray

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
CHUNK_BYTES = 1 << 20  # small enough to move little for a small difference, large enough to hash at memory speed
DIGEST_BYTES = 16


class Content:
    """The arrays of a state as one sequence of chunks, in the order of their names.

    ``schema``: what peers must have in common, a line per array.
    """

    def __init__(self, state: Mapping[str, Any]):
        self.arrays = {name: HostArray(state[name], f"state {name!r}") for name in sorted(state)}
        for name, array in self.arrays.items():
            array.require_writable(f"state {name!r}")
        self.schema = [f"{name}: {a.dtype.name} {list(a.shape)}" for name, a in self.arrays.items()]
        self.chunks: list[Bytes] = []
        for array in self.arrays.values():
            data = array.flat.view(np.uint8)
            self.chunks += [data[start : start + CHUNK_BYTES] for start in range(0, data.size, CHUNK_BYTES)]
        self.hashes = np.zeros((len(self.chunks), DIGEST_BYTES), np.uint8)
        self.rehash(range(len(self.chunks)))

    def rehash(self, indices: Any) -> None:
        for index in indices:
            self.hashes[index] = np.frombuffer(xxhash.xxh3_128_digest(self.chunks[index]), np.uint8)

    @property
    def schema_digest(self) -> bytes:
        return xxhash.xxh3_128_digest("\n".join(self.schema).encode())

    @property
    def root(self) -> bytes:
        """One hash for the whole content."""
        return xxhash.xxh3_128_digest(self.schema_digest + self.hashes.tobytes())

    def write_back(self) -> None:
        """After the chunks were overwritten: arrays that are not contiguous get their values, too."""
        for array in self.arrays.values():
            array.write_back()


@dataclass(frozen=True)
class Claim:
    """What one peer says it has. ``revision``: -1 for nothing; ``lineage``: the revision that it last synced at, -1 never."""

    name: str
    revision: int
    lineage: int
    schema: bytes
    root: bytes
