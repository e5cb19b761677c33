"""Eight bits per number as a small floating number, with a scale for each block."""

from __future__ import annotations

from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from .blockwise import Blockwise
from .codec import TINY, WORKSPACE, Bytes, Floats
from .rounding import to_codes, to_grid

_DOWN = np.float32(1 - 2.0**-22)  # so that the greatest number stays finite when it is decoded


class Fp8(Blockwise):
    """``kind``: the dtype of the codes; ``greatest``: its greatest number, ``mantissa`` and ``smallest``: its bits behind the
    point and its least exponent."""

    scales = 1
    usual_block = 1024
    kind: ClassVar[np.dtype[Any]]
    greatest: ClassVar[float]
    mantissa: ClassVar[int]
    smallest: ClassVar[int]
    _values: ClassVar[Floats]  # by code

    def __init_subclass__(cls) -> None:
        codes = np.arange(256, dtype=np.uint8)
        cls._values = codes.view(cls.kind).astype(np.float32)

    def _encode_rows(self, numbers: Floats, scales: Floats, codes: Bytes) -> None:
        (scale,) = scales
        magnitude = np.maximum(numbers.max(axis=1, keepdims=True), -numbers.min(axis=1, keepdims=True))
        known = np.maximum(magnitude * (_DOWN / np.float32(self.greatest)), TINY)
        scale[:] = np.where(np.isfinite(magnitude), known, np.float32(np.nan))
        shares = np.multiply(numbers, np.float32(1) / scale, out=WORKSPACE.floats("shares", numbers.shape))
        if self.draws is not None:
            np.clip(shares, -self.greatest, self.greatest, out=shares)
            shares = to_grid(shares, self.mantissa, self.smallest, self.draws)
        bits = to_codes(shares.view(np.uint32).reshape(-1), self.mantissa, self.smallest, 8)
        np.copyto(codes, bits, casting="unsafe")

    def _decode_rows(self, codes: Bytes, scales: Floats, out: Floats) -> None:
        np.take(self._values, codes.reshape(out.shape), out=out, mode="clip")
        np.multiply(out, scales[0], out=out)

    def _bound_of_rows(self, numbers: Floats) -> Floats:
        scale = np.maximum(np.abs(numbers).max(axis=1, keepdims=True).astype(np.float64) / self.greatest, 2.0**-126)
        own = np.abs(numbers).astype(np.float64) * 2.0**-self.mantissa
        bound = np.maximum(own, scale * 2.0 ** (self.smallest - self.mantissa))
        return (bound * (1 + 2.0**-10) / (2 if self.draws is None else 1)).astype(np.float32)


class E4M3(Fp8):
    """e4m3fn: three bits behind the point, shares of the block's greatest magnitude from 2^-15 on; 8.03 bits per number, with a
    float32 scale for each block of 1024, which brings the greatest magnitude to 448.

    Error at most 1/16 of the number, or 2^-10 of the scale, whichever is more (times 1 + 2^-10); twice as much with
    ``stochastic``. The scale is the block's greatest magnitude divided by 448, and not less than 2^-126. A block that holds a
    NaN or an infinity decodes to NaN throughout.
    """

    name = "fp8_e4m3"
    wire_id = 3
    kind = np.dtype(ml_dtypes.float8_e4m3fn)
    greatest, mantissa, smallest = 448.0, 3, -6


class E5M2(Fp8):
    """e5m2: two bits behind the point, for blocks whose numbers differ more; 8.03 bits per number, with a float32 scale for
    each block of 1024, which brings the greatest magnitude to 57344.

    Error at most 1/8 of the number, or 2^-17 of the scale, whichever is more (times 1 + 2^-10); twice as much with
    ``stochastic``. The scale is the block's greatest magnitude divided by 57344, and not less than 2^-126. A block that
    holds a NaN or an infinity decodes to NaN throughout.
    """

    name = "fp8_e5m2"
    wire_id = 4
    kind = np.dtype(ml_dtypes.float8_e5m2)
    greatest, mantissa, smallest = 57344.0, 2, -14
