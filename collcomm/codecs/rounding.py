"""Unbiased rounding: up or down at random, with the chances that make the number itself the mean."""

from __future__ import annotations

import threading

import numpy as np

from .codec import Array, Floats


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
