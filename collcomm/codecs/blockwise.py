"""Codecs whose numbers share a scale block by block: first the scales of all blocks, then the codes of all numbers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np

from .codec import TILE, Bytes, Codec, Floats, rows_of
from .rounding import Draws

_SCALE = np.dtype("<f4")
MOST_BLOCK = 1 << 15


class Blockwise(Codec):
    """``scales``: float32 numbers per block; ``bits``: per code, 4 or 8.

    A block that holds a NaN or an infinity has a NaN for its scale, and all its numbers decode to NaN.

    :param block: numbers that share a scale: a power of two from 16 to 32768.
    :param stochastic: round at random to one of the two codes around a number, so that the mean of many roundings is the
        number itself (unbiased), with twice the error bound.
    :param seed: of that; None for a seed that the system draws. Peers should have different ones.
    """

    scales: ClassVar[int]
    bits: ClassVar[int] = 8
    usual_block: ClassVar[int]

    def __init__(self, block: int | None = None, stochastic: bool = False, seed: int | None = None):
        block = self.usual_block if block is None else block
        if not isinstance(block, int) or not 16 <= block <= MOST_BLOCK or block & (block - 1):
            raise ValueError(f"{self.name}: block must be a power of two from 16 to {MOST_BLOCK}, not {block!r}")
        self.block = block
        self.draws = Draws(seed) if stochastic else None

    @property
    def spec(self) -> str:
        return f"{self.name}(block={self.block})"

    def _body_bytes(self, count: int) -> int:
        return self._blocks(count) * self.scales * _SCALE.itemsize + (count * self.bits + 7) // 8

    def _blocks(self, count: int) -> int:
        return -(-count // self.block)

    def _split(self, body: Bytes, count: int) -> tuple[Floats, Bytes]:
        """Scales, by kind and block, each in a row of its own, and codes."""
        blocks = self._blocks(count)
        nbytes = blocks * self.scales * _SCALE.itemsize
        scales = body[:nbytes].view(_SCALE).reshape(self.scales, blocks, 1)
        return scales, body[nbytes : nbytes + (count * self.bits + 7) // 8]

    def _encode(self, source: Floats, body: Bytes) -> None:
        scales, codes = self._split(body, source.size)
        for first in range(0, source.size, TILE):
            for rows in rows_of(source[first : first + TILE], first, self.block):
                self._encode_rows(rows.numbers, scales[:, rows.blocks], codes[self._bytes(rows.elements)])

    def _parts(self, body: Bytes, count: int) -> Any:
        scales, codes = self._split(body, count)
        if ((scales[0] <= 0) | np.isinf(scales[0])).any():
            raise self._malformed("has a scale that is neither positive nor NaN")
        return scales, codes

    def _decode(self, parts: Any, first: int, out: Floats) -> None:
        scales, codes = parts
        for rows in rows_of(out, first, self.block):
            self._decode_rows(codes[self._bytes(rows.elements)], scales[:, rows.blocks], rows.numbers)

    def _bytes(self, elements: slice) -> slice:
        return slice(elements.start * self.bits // 8, (elements.stop * self.bits + 7) // 8)

    @abstractmethod
    def _encode_rows(self, numbers: Floats, scales: Floats, codes: Bytes) -> None:
        """``numbers``: a row for each block; ``scales``: by kind, a column to be filled; ``codes``: flat, to be filled."""

    @abstractmethod
    def _decode_rows(self, codes: Bytes, scales: Floats, out: Floats) -> None: ...

    def error_bound(self, source: Floats) -> Floats:
        bound = np.empty(source.size, np.float32)
        with np.errstate(all="ignore"):
            for rows, into in zip(rows_of(source, 0, self.block), rows_of(bound, 0, self.block), strict=True):
                into.numbers[:] = self._bound_of_rows(rows.numbers)
                lost = ~np.isfinite(rows.numbers).all(axis=1, keepdims=True)
                np.copyto(into.numbers, np.float32(np.inf), where=lost)
        return bound

    @abstractmethod
    def _bound_of_rows(self, numbers: Floats) -> Floats: ...
