"""Rounding to floating numbers of few bits: to the nearest; or unbiased, up or down at random, with the chances that make the
number itself the mean."""

from __future__ import annotations

import threading

import numpy as np

from .codec import WORKSPACE, Array, Floats, Words


class Draws:
    """Random numbers from a seed, for one thread after the other."""

    def __init__(self, seed: int | None):
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self._lock = threading.Lock()

    def uniform(self, shape: tuple[int, ...]) -> Floats:
        """At least 0, less than 1."""
        with self._lock:
            return self._generator.random(shape, np.float32)

    def bits(self, shape: tuple[int, ...], count: int) -> Array:
        """Whole numbers of ``count`` bits, as uint32."""
        with self._lock:
            return self._generator.integers(0, 1 << count, shape, np.uint32)


def to_grid(numbers: Floats, mantissa: int, smallest: int, draws: Draws) -> Floats:
    """``numbers``, each rounded at random to one of its two neighbours among floating numbers with ``mantissa`` bits behind the
    point and exponents from ``smallest`` on (below it, evenly spaced). NaN and infinity stay."""
    exponent = np.frexp(numbers)[1] - 1
    spacing = np.ldexp(np.float32(1), np.maximum(exponent, smallest) - mantissa)
    scaled = np.floor(numbers / spacing + draws.uniform(numbers.shape))
    rounded = scaled * spacing
    return np.where(np.isfinite(numbers), rounded, numbers).astype(np.float32, copy=False)


def to_codes(bits: Words, mantissa: int, smallest: int, width: int) -> Words:
    """The nearest codes of ``width`` bits to the numbers with these ``bits``, which are lost; of two equally near ones the even
    one. A code has a sign, an exponent from ``smallest`` on, and ``mantissa`` bits. As a cast does it, several times as fast, and
    without its trap for each number that is too small. Numbers beyond the greatest code, and NaN, have no code."""
    shift = np.uint32(23 - mantissa)
    signs = np.right_shift(bits, np.uint32(32 - width), out=WORKSPACE.words("signs", bits.shape))
    np.bitwise_and(signs, np.uint32(1 << (width - 1)), out=signs)
    np.bitwise_and(bits, np.uint32(0x7FFFFFFF), out=bits)
    aligned = np.float32(2.0 ** (smallest - mantissa + 23))  # a sum with it ends at the least code's place
    below = np.add(bits.view(np.float32), aligned, out=WORKSPACE.floats("below", bits.shape)).view(np.uint32)
    np.subtract(below, aligned.view(np.uint32), out=below)
    small = bits < np.float32(2.0**smallest).view(np.uint32)
    even = np.right_shift(bits, shift, out=WORKSPACE.words("even", bits.shape))
    np.bitwise_and(even, np.uint32(1), out=even)
    np.add(bits, even, out=bits)
    np.add(bits, np.uint32((1 << (22 - mantissa)) - 1), out=bits)
    np.right_shift(bits, shift, out=bits)
    np.subtract(bits, np.uint32((126 + smallest) << mantissa), out=bits)
    np.copyto(bits, below, where=small)
    return np.bitwise_or(bits, signs, out=bits)
