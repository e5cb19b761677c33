"""Four bits per number: a sign and a power of two (E3M0), as Streaming DiLoCo (arXiv 2501.18512) sends pseudo-gradients."""

from __future__ import annotations

import numpy as np

from .blockwise import Blockwise
from .codec import TINY, WORKSPACE, Bytes, Floats, Words

_SIGN, _HALF, _MANTISSA = np.uint32(8), np.uint32(1 << 22), np.uint32(23)
_SEVEN_BELOW = np.uint32(127 - 7)  # exponent of what is code 0
_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SMALLEST = np.float32(2.0**-6)


def _values() -> Floats:
    powers = [0.0, *(2.0 ** (code - 7) for code in range(1, 8))]
    return np.array([*powers, 0.0, *(-power for power in powers[1:])], np.float32)


def _pairs() -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """By byte, the two numbers that it stands for."""
    values, byte = _values(), np.arange(256)
    return np.stack([values[byte & 15], values[byte >> 4]], axis=1).view(np.uint64).reshape(-1)


_PAIRS = _pairs()


class E3M0(Blockwise):
    """A number is zero, or plus or minus the greatest magnitude of its block of 256 times 2^-6, 2^-5, ... 2^0: 4.13 bits per
    number. The greatest is kept exactly; below 2^-126 it counts as that.

    Error at most a third of the number, or 3/256 of the block's greatest magnitude, whichever is more (times 1 + 2^-10); with
    ``stochastic`` all of the number, or 1/64. A block that holds a NaN or an infinity decodes to NaN throughout.
    """

    name = "e3m0"
    wire_id = 6
    scales = 1
    bits = 4
    usual_block = 256  # numbers of less than a hundredth of the block's greatest are lost: few should share it

    def _encode_rows(self, numbers: Floats, scales: Floats, codes: Bytes) -> None:
        (scale,) = scales
        magnitude = np.maximum(numbers.max(axis=1, keepdims=True), -numbers.min(axis=1, keepdims=True))
        scale[:] = np.where(np.isfinite(magnitude), np.maximum(magnitude, TINY), np.float32(np.nan))
        share = np.multiply(numbers, np.float32(1) / scale, out=WORKSPACE.floats("share", numbers.shape))
        bits = share.view(np.uint32)
        signs = np.right_shift(bits, np.uint32(28), out=WORKSPACE.words("signs", numbers.shape))
        np.bitwise_and(signs, _SIGN, out=signs)
        np.bitwise_and(bits, _MAGNITUDE, out=bits)
        if self.draws is None:
            np.add(bits, _HALF, out=bits)  # carries into the exponent from one and a half on
        else:
            small = share < _SMALLEST  # down to 0 or up to 2^-6
            up = self.draws.uniform(share.shape) < share * 64
            np.add(bits, self.draws.bits(share.shape, 23), out=bits)
            np.copyto(bits, np.where(up, _SMALLEST, np.float32(0)).view(np.uint32), where=small)
        np.right_shift(bits, _MANTISSA, out=bits)
        np.clip(bits, _SEVEN_BELOW, _SEVEN_BELOW + np.uint32(7), out=bits)
        np.subtract(bits, _SEVEN_BELOW, out=bits)
        np.bitwise_or(bits, signs, out=bits)
        _pack(bits.reshape(-1), codes)

    def _decode_rows(self, codes: Bytes, scales: Floats, out: Floats) -> None:
        flat = out.reshape(-1)
        whole = flat.size // 2
        if out.ctypes.data % 8 or flat.size % 2:
            flat[:] = np.take(_PAIRS, codes).view(np.float32)[: flat.size]
        else:
            np.take(_PAIRS, codes[:whole], out=flat.view(np.uint64), mode="clip")
        np.multiply(out, scales[0], out=out)

    def _bound_of_rows(self, numbers: Floats) -> Floats:
        greatest = np.maximum(np.abs(numbers).max(axis=1, keepdims=True), TINY).astype(np.float64)
        own = np.abs(numbers).astype(np.float64)
        bound = np.maximum(own / 3, greatest * 3 / 256) if self.draws is None else np.maximum(own, greatest / 64)
        return (bound * (1 + 2.0**-10)).astype(np.float32)


def _pack(codes: Words, into: Bytes) -> None:
    """Two to a byte, the first in the lower half."""
    if codes.size % 2:
        codes = np.append(codes, np.uint32(0))
    pairs = codes.view(np.uint64)
    upper = np.right_shift(pairs, np.uint64(28), out=WORKSPACE.words("upper", (codes.size,)).view(np.uint64))
    np.bitwise_or(pairs, upper, out=pairs)
    np.copyto(into, pairs, casting="unsafe")
