"""Checksums that pass through a reduction: what the ranks' own add up to is what the result's must be.

Algorithm-based fault tolerance (Huang and Abraham 1984). Each rank sums its contribution in blocks of `BLOCK` numbers before the
operation; the sums of all ranks together are compared with those of the result. Integers add modulo 2^64 and bits by xor,
exactly: any single flipped bit shows. Floating sums are compared within a bound that no correct execution exceeds, in any
order:

Let ``x[r, i]`` be what rank r gives, ``y[i]`` the result, ``a[i]`` the sum of ``abs(x[r, i])`` over the n ranks, ``A`` that
of all ``a[i]`` in a block, ``e`` the dtype's epsilon. Each element is the outcome of n - 1 additions, so that (Higham 2002,
4.2) ``abs(y[i] - exact) <= ((1 + u)^(n-1) - 1) * a[i]`` whatever the order, with u the largest relative error of one
addition. We take ``u = e``, twice the half unit of rounding to nearest: that covers truncating kernels and the double
rounding of bfloat16 and fp8, which are added in float32. Additions that underflow are exact, unless hardware flushes to zero:
then each loses at most the smallest normal number. An average adds two roundings (of the quotient, and of the divisor in
short types; four more for complex division) and what the quotient loses by underflow. Summed over a block, errors add up to
at most the same factor times A. The sums themselves are of float64: BLOCK terms (and n sums) lose at most ``(BLOCK + n) *
2^-53 * A`` each, before and after. So a correct result never shows; a change of an element by more than twice the bound
always does, and smaller ones do when they exceed what rounding has left of the bound. NaN and infinity make a block's sum
tell nothing: such blocks are `unclear`, and looked at element by element (`audit`).

min, max, prod, band, bor let no checksum pass: they are done twice (`twice`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Any

import ml_dtypes
import numpy as np
import xxhash

Array = np.ndarray[Any, Any]
BLOCK = 1024  # numbers: few, so that the bound is tight; enough for checksums to be a hundredth of the data
_ROWS = 64  # blocks summed at once: 512 KiB of float64 stay in cache
_LOSS = 2.0**-52  # of one operation of float64, generously
_GOLDEN = 2654435761  # spreads successive numbers (Knuth)
_FLUSHED = ("float32", "float64", "bfloat16")  # whose smallest numbers hardware may be told to drop


class Way(Enum):
    """How a result is compared with its contributions."""

    MODULAR = "modular"  # sums modulo 2^64
    XOR = "xor"
    ROUNDED = "rounded"  # sums within a bound
    TWICE = "twice"


def way_of(op: str, dtype: np.dtype[Any]) -> Way:
    if op == "bxor":
        return Way.XOR
    if op in ("sum", "avg") and dtype.kind != "b":  # of bool, + is `or`
        return Way.MODULAR if dtype.kind in "iu" else Way.ROUNDED
    return Way.TWICE


def real_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Of the numbers that elements consist of: complex ones of two."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def blocks_in(elements: int, dtype: np.dtype[Any]) -> int:
    numbers = elements * (dtype.itemsize // real_dtype(dtype).itemsize)
    return -(-numbers // BLOCK)


def elements_of_block(index: int, elements: int, dtype: np.dtype[Any]) -> slice:
    """Where in an array of ``elements`` the block lies."""
    length = BLOCK * real_dtype(dtype).itemsize // dtype.itemsize
    return slice(index * length, min((index + 1) * length, elements))


def block_sums(data: Array, way: Way, scaled: bool = True) -> tuple[Array, Array]:
    """Of flat, contiguous ``data``, by block: the checksums (uint64; float64 for ROUNDED), and, for ROUNDED if ``scaled``, sums
    of absolute values (else empty)."""
    values = data.view(real_dtype(data.dtype))
    count = -(-values.size // BLOCK)
    rounded = way is Way.ROUNDED
    sums = np.empty(count, np.float64 if rounded else np.uint64)
    scales = np.empty(count if rounded and scaled else 0, np.float64)
    if way is Way.XOR:
        values = values.view(f"u{values.itemsize}")
    wide = np.empty((_ROWS, BLOCK), sums.dtype)
    with np.errstate(all="ignore"):
        for first in range(0, count, _ROWS):
            here = slice(first, min(first + _ROWS, count))
            rows = wide[: here.stop - first]
            _fill(rows.reshape(-1), values[first * BLOCK : here.stop * BLOCK])
            if way is Way.XOR:
                np.bitwise_xor.reduce(rows, axis=1, out=sums[here])
                continue
            np.add.reduce(rows, axis=1, out=sums[here])
            if scales.size:
                np.abs(rows, out=rows)
                np.add.reduce(rows, axis=1, out=scales[here])
    return sums, scales


def _fill(wide: Array, part: Array) -> None:
    wide[part.size :] = 0
    np.copyto(wide[: part.size], part, casting="unsafe")


@dataclass(frozen=True)
class Bound:
    """What rounding may do to the reduction of ``dtype`` over n ranks: ``factor`` times the sum of absolute values, and
    ``floor`` for each element. ``largest``: the largest finite number."""

    factor: float
    floor: float
    largest: float
    smallest: float

    @classmethod
    def of(cls, op: str, dtype: np.dtype[Any], n: int) -> Bound:
        kind = real_dtype(dtype)
        info = ml_dtypes.finfo(kind)
        steps = n - 1
        if op == "avg":
            steps += 6 if dtype.kind == "c" else 2
        elif op == "prod" and dtype.kind == "c":
            steps *= 4  # a product of complex numbers is off by less than sqrt(5) roundings (Brent et al. 2007)
        flushed = float(info.smallest_normal) * 2 * n if kind.name in _FLUSHED else 0.0
        divided = float(info.smallest_subnormal) * n if op == "avg" else 0.0
        factor = math.expm1(steps * math.log1p(float(info.eps)))
        return cls(factor, flushed + divided, float(info.max), float(info.smallest_normal))

    def of_block(self, scales: Array, n: int) -> Array:
        """``scales``: of each block, the sum of absolute values over all ranks."""
        lost = (2 * BLOCK + 2 * n) * _LOSS * (1.0 + self.factor)
        return (self.factor * (1.0 + lost) + lost) * scales + self.floor * BLOCK

    def of_number(self, scales: Array, n: int) -> Array:
        lost = 2 * n * _LOSS
        return (self.factor * (1.0 + lost) + lost) * scales + self.floor


@dataclass(frozen=True)
class Suspicion:
    """By block: ``wrong`` for certain, or ``unclear``."""

    wrong: Array
    unclear: Array

    @property
    def any(self) -> bool:
        return bool(self.wrong.any() or self.unclear.any())

    def choose(self, most: int, turn: int, differing: Array) -> list[int]:
        """At most ``most`` blocks to look into, ascending: ``differing`` ones and wrong ones first, then unclear ones in turn."""
        first = list(dict.fromkeys([*differing.tolist(), *np.flatnonzero(self.wrong).tolist()]))[:most]
        rest = [block for block in np.flatnonzero(self.unclear).tolist() if block not in set(first)]
        start = (turn * _GOLDEN >> 16) % len(rest) if rest else 0
        return sorted(first + (rest[start:] + rest[:start])[: most - len(first)])


def suspicion(way: Way, op: str, dtype: np.dtype[Any], before: Array, scales: Array, after: Array) -> Suspicion:
    """``before``, ``scales``, ``after``: a row for each rank, as `block_sums` made them of its contribution, and of its
    result; for TWICE, ``after`` counts the numbers that differed. From equal tables all ranks conclude the same: the
    arithmetic is elementwise and in the order of ranks."""
    n, count = after.shape
    none = np.zeros(count, bool)
    if way is Way.TWICE:
        return Suspicion((after != 0).any(axis=0), none)
    with np.errstate(all="ignore"):
        expected = before[0].copy()
        for row in before[1:]:
            expected = expected ^ row if way is Way.XOR else expected + row
        if way is not Way.ROUNDED:
            bits = np.uint64((1 << 8 * dtype.itemsize) - 1)
            return Suspicion((((after - expected) & bits) != 0).any(axis=0), none)
        total = scales[0].copy()
        for row in scales[1:]:
            total = total + row
        deviation = np.abs(after * (n if op == "avg" else 1) - expected)
        known = np.isfinite(deviation).all(axis=0) & np.isfinite(total)
        beyond = (deviation > Bound.of(op, dtype, n).of_block(total, n)).any(axis=0)
    return Suspicion(known & beyond, ~known)


def digest(data: Array) -> Array:
    """xxh3 of the bits, 128 of them, as two numbers."""
    return np.frombuffer(xxhash.xxh3_128_digest(_memory(data)), np.uint64)


def block_digests(data: Array) -> Array:
    """xxh3 of each block, 64 bits."""
    count = blocks_in(data.size, data.dtype)
    where = (elements_of_block(index, data.size, data.dtype) for index in range(count))
    return np.array([xxhash.xxh3_64_intdigest(_memory(data[part])) for part in where], np.uint64)


def _memory(data: Array) -> Any:
    return data.view(np.uint8).data  # buffers know nothing of bfloat16
