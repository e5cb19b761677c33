"""Eight bits per number, spread evenly between the least and the greatest of each block."""

from __future__ import annotations

from typing import Any

import numpy as np

from .blockwise import Blockwise
from .codec import TINY, WORKSPACE, Bytes, Floats

_SHARE = np.float32(1 / 254)  # of a block's width is a step; one code is spare, which lets zero be one of them
_ONE = np.float32(1)
HUGE = np.float32(2.0**125)  # from here on, differences of two numbers may be too large for float32
_QUARTER = np.float32(0.25)
_GREATEST = np.float32(np.finfo(np.float32).max) * _QUARTER


class Int8(Blockwise):
    """A number is ``low + code * step``, with a float32 ``step`` and a float32 ``low`` (the zero-point) for each block of 1024:
    8.06 bits per number. The step is the 254th part of the distance between the block's least and greatest number, and not
    less than 2^-126. Where a block has numbers on both sides of zero, ``low`` is a whole number of steps, so that zeros
    decode to exactly zero (blocks with numbers from 2^125 on excepted). A block of equal numbers decodes to exactly these.

    Error at most ``step / 2`` (1 + 2^-10) + 2^-22 times the block's greatest magnitude; ``step`` with ``stochastic``. A block
    that holds a NaN or an infinity decodes to NaN throughout.
    """

    name = "int8"
    wire_id = 5
    scales = 2
    usual_block = 1024  # smaller ones make headers and numpy's loops dear, larger ones make outliers spoil more

    def _encode_rows(self, numbers: Floats, scales: Floats, codes: Bytes) -> None:
        step, low = scales
        least = numbers.min(axis=1, keepdims=True)
        greatest = numbers.max(axis=1, keepdims=True)
        table = codes.reshape(numbers.shape)
        if least.min() > -HUGE and greatest.max() < HUGE:  # not so with a NaN
            self._fill(numbers, least, greatest, step, low, table)
            return
        hard = ~((least > -HUGE) & (greatest < HUGE))[:, 0]
        easy = ~hard
        table[hard], step[hard], low[hard] = self._hard(numbers[hard])
        part, steps, lows = np.empty(numbers[easy].shape, np.uint8), step[easy], low[easy]
        self._fill(numbers[easy], least[easy], greatest[easy], steps, lows, part)
        table[easy], step[easy], low[easy] = part, steps, lows

    def _fill(
        self,
        numbers: Floats,
        least: Floats,
        greatest: Floats,
        step: Floats,
        low: Floats,
        table: Bytes,
        keep_zero: bool = True,
    ) -> None:
        np.maximum((greatest - least) * _SHARE, TINY, out=step)
        inverse = _ONE / step
        low[:] = least
        if keep_zero:
            np.copyto(low, np.floor(least * inverse) * step, where=(least <= 0) & (greatest >= 0))
        scaled = np.subtract(numbers, low, out=WORKSPACE.floats("scaled", numbers.shape))
        np.multiply(scaled, inverse, out=scaled)
        if self.draws is None:
            np.rint(scaled, out=scaled)
        else:
            np.add(scaled, self.draws.uniform(scaled.shape), out=scaled)
            np.clip(np.floor(scaled, out=scaled), 0, 255, out=scaled)
        np.copyto(table, scaled, casting="unsafe")

    def _hard(self, numbers: Floats) -> tuple[Bytes, Floats, Floats]:
        """Blocks with numbers that are not finite, or so large that a quarter of them is encoded."""
        lost = ~np.isfinite(numbers).all(axis=1, keepdims=True)
        quarter = np.where(lost, np.float32(0), numbers * _QUARTER)
        table = np.empty(numbers.shape, np.uint8)
        step = np.empty((len(numbers), 1), np.float32)
        low = np.empty_like(step)
        least, greatest = quarter.min(axis=1, keepdims=True), quarter.max(axis=1, keepdims=True)
        self._fill(quarter, least, greatest, step, low, table, keep_zero=False)
        return table, np.where(lost, np.float32(np.nan), step * 4), low * 4

    def _parts(self, body: Bytes, count: int) -> Any:
        """With whether the scales are a quarter of what they are: sums of larger ones might pass the end of float32."""
        scales, codes = super()._parts(body, count)
        step, low = scales
        if np.isinf(low).any():
            raise self._malformed("has a zero-point that is infinite")
        with np.errstate(all="ignore"):
            large = bool((np.abs(low) + step * 256 >= HUGE).any())
        return scales * _QUARTER if large else scales, codes, large

    def _decode(self, parts: Any, first: int, out: Floats) -> None:
        scales, codes, large = parts
        super()._decode((scales, codes), first, out)
        if large:
            np.clip(out, -_GREATEST, _GREATEST, out=out)
            np.multiply(out, np.float32(4), out=out)

    def _decode_rows(self, codes: Bytes, scales: Floats, out: Floats) -> None:
        step, low = scales
        np.copyto(out, codes.reshape(out.shape))
        np.multiply(out, step, out=out)
        np.add(out, low, out=out)

    def _bound_of_rows(self, numbers: Floats) -> Floats:
        least = numbers.min(axis=1, keepdims=True).astype(np.float64)
        greatest = numbers.max(axis=1, keepdims=True).astype(np.float64)
        step = np.maximum((greatest - least) / 254, 2.0**-126) * (1 + 2.0**-10)
        magnitude = np.maximum(np.abs(least), np.abs(greatest))
        if self.draws is None:
            step /= 2
        return (step + magnitude * 2.0**-22).astype(np.float32)
