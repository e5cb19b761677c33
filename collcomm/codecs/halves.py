"""Sixteen bits per number, each on its own."""

from __future__ import annotations

from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from .codec import TILE, WORKSPACE, Array, Bytes, Codec, Floats
from .rounding import Draws, to_codes, to_grid

_BEYOND = np.float32(65536)  # whose code is infinity's; so is that of all from 65520 on, which are rounded up to it


class Half(Codec):
    """``kind``: the dtype of the codes; ``mantissa`` and ``smallest``: its bits behind the point and its least exponent.

    :param stochastic: round at random to one of the two neighbours, so that the mean of many roundings is the number itself.
    :param seed: of that; None for a seed that the system draws.
    """

    kind: ClassVar[np.dtype[Any]]
    mantissa: ClassVar[int]
    smallest: ClassVar[int]
    beyond: ClassVar[float]  # where infinity may begin

    def __init__(self, stochastic: bool = False, seed: int | None = None):
        self.draws = Draws(seed) if stochastic else None

    def _body_bytes(self, count: int) -> int:
        return 2 * count

    def _encode(self, source: Floats, body: Bytes) -> None:
        codes = body[: 2 * source.size].view(self.kind)
        for first in range(0, source.size, TILE):
            part = source[first : first + TILE]
            if self.draws is not None:
                part = to_grid(part, self.mantissa, self.smallest, self.draws)
            self._round(part, codes[first : first + TILE])

    def _round(self, part: Floats, codes: Array) -> None:
        np.copyto(codes, part, casting="unsafe")

    def _parts(self, body: Bytes, count: int) -> Array:
        return body[: 2 * count].view(self.kind)  # any two bytes are a number

    def _decode(self, parts: Array, first: int, out: Floats) -> None:
        np.copyto(out, parts[first : first + out.size], casting="unsafe")

    def error_bound(self, source: Floats) -> Floats:
        own = np.abs(source).astype(np.float64)
        bound = np.maximum(own * 2.0**-self.mantissa, 2.0 ** (self.smallest - self.mantissa))
        if self.draws is None:
            bound /= 2
        return np.where(own < self.beyond, bound, np.inf).astype(np.float32)


class F16(Half):
    """IEEE half precision: 16 bits per number. Error at most 2^-11 of the number, or 2^-25, whichever is more; twice as much
    with ``stochastic``. Numbers of 65504 and more in magnitude may become infinite; NaN and infinity stay what they are."""

    name = "f16"
    wire_id = 1
    kind = np.dtype(np.float16)
    mantissa, smallest, beyond = 10, -14, 65504.0

    def _round(self, part: Floats, codes: Array) -> None:
        room = WORKSPACE.floats("numbers", part.shape)
        np.clip(part, -_BEYOND, _BEYOND, out=room)  # NaN stays
        lost = np.isnan(room)
        bits = to_codes(room.view(np.uint32), self.mantissa, self.smallest, 16)
        np.copyto(codes.view(np.uint16), bits, casting="unsafe")
        if lost.any():
            codes[lost] = np.nan


class BF16(Half):
    """bfloat16: 16 bits per number, with float32's range. Error at most 2^-8 of the number, or 2^-134, whichever is more; twice
    as much with ``stochastic``. Numbers of 3.38e38 and more in magnitude may become infinite; NaN and infinity stay."""

    name = "bf16"
    wire_id = 2
    kind = np.dtype(ml_dtypes.bfloat16)
    mantissa, smallest, beyond = 7, -126, 3.38e38
