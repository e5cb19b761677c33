"""Strided arrays in host memory and their packed copies, for operations: packed and unpacked tile by tile, where the operation
needs it, while the tile lies in cache."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

TILE_BYTES = 1 << 18  # packed: as much as a frame


class Packing(Protocol):
    """Something that can be packed: see `HostPacking`."""

    @property
    def nbytes(self) -> int: ...

    def pack(self, target: Any) -> None: ...

    def unpack(self, source: Any) -> None: ...

    def tiles(self, limit: int) -> Sequence[Packing]:
        """The same in pieces of about ``limit`` bytes."""


class Strided:
    """``parts`` one after the other. With ``by_rank``, one for each rank of the call: of those who are gone, nothing comes."""

    def __init__(self, parts: Sequence[Packing], by_rank: bool = False):
        self.early = True
        self._parts = parts
        self._by_rank = by_rank
        self._tiles = _Tiles(parts)
        self.host = np.empty(self._tiles.nbytes, np.uint8)

    def fetch(self, start: int, nbytes: int) -> None:
        self._tiles.pack(self.host, start, nbytes)

    def fetch_into(self, target: Any, start: int) -> None:
        self._tiles.pack_into(target, self.host, start)

    def borders(self, limit: int) -> list[int]:
        return self._tiles.borders(limit)

    def fetch_all(self) -> None:
        self._tiles.pack(self.host, 0, self.host.size)

    def forget(self) -> None:
        self._tiles = _Tiles(self._parts)

    def restart(self, ranks: Sequence[int]) -> None:
        if self._by_rank and len(ranks) != len(self._parts):
            self._tiles = _Tiles([self._parts[rank] for rank in ranks])
        else:
            self._tiles.awaited.clear()

    def store(self, start: int, nbytes: int) -> None:
        self._tiles.unpack(self.host, start, nbytes)

    def deliver(self, start: int, source: Any) -> None:
        self._tiles.unpack_from(source, self.host, start)

    def settle(self) -> None:
        """Packing is done when it returns."""

    def conclude(self, nbytes: int) -> None:
        self._tiles.unpack_rest(self.host, nbytes)


class _Tiles:
    """What is packed where, and how far that has come. Tiles are cut when the first part of the whole is asked for."""

    def __init__(self, parts: Sequence[Packing]):
        self._parts = parts
        self.nbytes = sum(part.nbytes for part in parts)
        self._packed: bytearray | None = None  # by tile
        self.awaited: dict[int, int] = {}  # bytes that a tile lacks to be unpacked
        self._cut: list[Packing] = []
        self._edges: list[int] = []

    def pack(self, host: Any, start: int, nbytes: int) -> None:
        """What overlaps these bytes and is not there yet."""
        if not nbytes:
            return
        if nbytes == self.nbytes and self._packed is None:
            self._packed = bytearray()
            offset = 0
            for part in self._parts:
                part.pack(host[offset : offset + part.nbytes])
                offset += part.nbytes
            return
        if self._packed is None:
            self._packed = bytearray(len(self._tiles()))
        if self._packed:
            for tile in self._among(start, nbytes):
                if not self._packed[tile]:
                    self._packed[tile] = 1
                    self._cut[tile].pack(host[self._edges[tile] : self._edges[tile + 1]])

    def borders(self, limit: int) -> list[int]:
        """As few pieces of whole tiles as there can be; ``limit`` is more than any tile has."""
        self._tiles()
        found = [0]
        for edge, following in pairwise(self._edges[1:]):
            if following - found[-1] > limit:
                found.append(edge)
        return [*found, self.nbytes] if self.nbytes else found

    def pack_into(self, target: Any, host: Any, start: int) -> None:
        """As `pack`, to ``target``: straight there what lies within it whole, and was not packed before."""
        tiles, edges = self._tiles(), self._edges
        end = start + target.size
        for tile in self._among(start, target.size):
            first, last = max(start, edges[tile]), min(end, edges[tile + 1])
            there = self._packed is not None and (not self._packed or self._packed[tile])
            if not there and last - first == edges[tile + 1] - edges[tile]:
                tiles[tile].pack(target[first - start : last - start])
            else:
                self.pack(host, first, last - first)
                target[first - start : last - start] = host[first:last]

    def unpack_from(self, source: Any, host: Any, start: int) -> None:
        """As `unpack`, from ``source``: straight from there what lies within it whole."""
        tiles, edges = self._tiles(), self._edges
        end = start + source.size
        for tile in self._among(start, source.size):
            first, last = max(start, edges[tile]), min(end, edges[tile + 1])
            if last - first == edges[tile + 1] - edges[tile]:
                tiles[tile].unpack(source[first - start : last - start])
                self.awaited[tile] = 0
            else:
                host[first:last] = source[first - start : last - start]
                self.unpack(host, first, last - first)

    def unpack(self, host: Any, start: int, nbytes: int) -> None:
        """These bytes have come; tiles that are whole now are unpacked."""
        tiles, edges = self._tiles(), self._edges
        for tile in self._among(start, nbytes):
            first, last = edges[tile], edges[tile + 1]
            come = min(last, start + nbytes) - max(first, start)
            left = self.awaited.get(tile, last - first) - come
            self.awaited[tile] = left
            if not left:
                tiles[tile].unpack(host[first:last])

    def unpack_rest(self, host: Any, nbytes: int) -> None:
        """All that has not been unpacked yet, of the first ``nbytes``."""
        if not self.awaited and nbytes == self.nbytes:
            offset = 0
            for part in self._parts:
                part.unpack(host[offset : offset + part.nbytes])
                offset += part.nbytes
            return
        tiles, edges = self._tiles(), self._edges
        for tile in self._among(0, nbytes):
            if self.awaited.get(tile) == 0:
                continue
            first, last = edges[tile], edges[tile + 1]
            if last > nbytes:  # the result ends within it
                kept = np.empty(last - first, np.uint8)
                tiles[tile].pack(kept)
                host[nbytes:last] = kept[nbytes - first :]
            tiles[tile].unpack(host[first:last])
        self.awaited.clear()

    def _tiles(self) -> list[Packing]:
        if not self._edges:
            self._cut = [tile for part in self._parts if part.nbytes for tile in part.tiles(TILE_BYTES)]
            self._edges = [0]
            for tile in self._cut:
                self._edges.append(self._edges[-1] + tile.nbytes)
        return self._cut

    def _among(self, start: int, nbytes: int) -> range:
        """The tiles that these bytes touch."""
        self._tiles()
        if not nbytes:
            return range(0)
        return range(bisect_right(self._edges, start) - 1, bisect_right(self._edges, start + nbytes - 1))
