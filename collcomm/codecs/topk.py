"""The numbers of the greatest magnitude, exactly, and where they stand; the rest is zero."""

from __future__ import annotations

import math

import numpy as np

from .codec import Bytes, Codec, Floats, Words

MOST_SHARE = 0.5  # from here on, float32 itself takes fewer bytes


class TopK(Codec):
    """Of ``n`` numbers, the ``ceil(fraction * n)`` of the greatest magnitude: 64 bits for each of them. What is left out is lost,
    unless an `ErrorFeedback` around it keeps it for the next call.

    Error zero for what is sent, and what is left out is not greater in magnitude than the least that is sent. NaN counts as
    greatest, before infinity; both are sent as they are, and while they are more than fit, those that are sent stand for all.

    :param fraction: of the numbers, more than 0, at most 0.5.
    """

    name = "topk"
    wire_id = 7

    def __init__(self, fraction: float = 0.01):
        if not 0 < fraction <= MOST_SHARE:
            raise ValueError(f"topk: fraction must be more than 0 and at most {MOST_SHARE}, not {fraction!r}")
        self.fraction = float(fraction)

    @property
    def spec(self) -> str:
        return f"topk(fraction={self.fraction!r})"

    def kept(self, count: int) -> int:
        """How many of ``count`` numbers are sent."""
        return min(count, math.ceil(self.fraction * count))

    def _body_bytes(self, count: int) -> int:
        return 8 * self.kept(count)

    def _split(self, body: Bytes, count: int) -> tuple[Words, Floats]:
        kept = self.kept(count)
        return body[: 4 * kept].view("<u4"), body[4 * kept : 8 * kept].view("<f4")

    def _encode(self, source: Floats, body: Bytes) -> None:
        places, values = self._split(body, source.size)
        if not places.size:
            return
        chosen = np.argpartition(np.abs(source), source.size - places.size)[source.size - places.size :]
        chosen.sort()
        places[:] = chosen
        values[:] = source[chosen]

    def _parts(self, body: Bytes, count: int) -> tuple[Words, Floats]:
        places, values = self._split(body, count)
        if places.size and (places[-1] >= count or (places[1:] <= places[:-1]).any()):
            raise self._malformed("has places that do not ascend, or lie beyond the end")
        return places, values

    def _decode(self, parts: tuple[Words, Floats], first: int, out: Floats) -> None:
        places, values = parts
        low, high = np.searchsorted(places, (first, first + out.size))
        out[:] = 0
        out[places[low:high] - np.uint32(first)] = values[low:high]

    def error_bound(self, source: Floats) -> Floats:
        kept = self.kept(source.size)
        if not kept:
            return np.zeros(source.size, np.float32)
        magnitudes = np.abs(source)
        least = np.partition(magnitudes, source.size - kept)[source.size - kept]
        return np.where(magnitudes > least, np.float32(0), np.minimum(magnitudes, least))
