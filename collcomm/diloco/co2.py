"""CO2 (arXiv 2401.16265): local updates, an average that is one round late, and what keeps that stable."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .flat import Array
from .outer import BLOCK_ELEMENTS
from .whole import OneRoundLate

_GRID = float(1 << 20)


class CO2(OneRoundLate):
    """Every ``every`` (the paper's tau) inner steps: launch this round's reduction, await the one of the round before, and

        m <- beta m + (x_old - mean) / L;   clip m to [-phi, phi];   x_old <- x_old - eta m

    where ``x_old`` in the difference is where the averaged round began, so that x_old - mean is how far the members have moved
    in it on average. The next round begins at x_old.

    L, the *staleness gap penalty*, makes the step smaller the further the model has moved since that round began:
    L = 1 + |x_old now - x_old then| / |x_old then - mean|. It is 1 where nothing has moved, and 2 where the model moved
    as far as the round that is applied now. It is computed in whole numbers, in which a sum has the same bits in any
    order, so that all machines agree.

    :param every: the paper's default is 48.
    :param lr: eta.
    :param momentum: beta, from 0 to less than 1.
    :param clip: phi, in units of the parameters; infinity does not clip.
    :param penalty: a fixed L, 1 or more, in place of the measured one; 1 is no penalty.
    :raises ValueError: settings that make no sense; an average or a penalty that is not finite (in the step that meets it).
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        every: int = 48,
        lr: float = 1.0,
        momentum: float = 0.2,
        clip: float = 1.0,
        penalty: float | None = None,
    ):
        if not (lr > 0 and math.isfinite(lr)):
            raise ValueError(f"lr must be a positive number, not {lr!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be from 0 to less than 1, not {momentum!r}")
        if not clip > 0:
            raise ValueError(f"clip must be positive (infinity does not clip), not {clip!r}")
        if penalty is not None and not (penalty >= 1 and math.isfinite(penalty)):
            raise ValueError(f"penalty must be a finite number, 1 or more, or None to measure it, not {penalty!r}")
        super().__init__(params, every, [lr, momentum, clip, penalty])
        kind = self.parameters.dtype.type
        self._lr, self._momentum, self._clip = kind(lr), kind(momentum), kind(clip)
        self._fixed = penalty
        self._m: Array = np.zeros(self.parameters.size, self.parameters.dtype)
        self.state["momentum"] = self._m
        self.penalty = 1.0  # of the last outer step
        self.clipped = 0  # elements of m at the bound in the last outer step

    def _fill(self, slot: int, bucket: Array, members: int) -> None:
        self.parameters.drift_from(self._anchor, bucket)

    def _apply(self, slot: int, mean: Array) -> None:
        self.penalty = self._penalty(mean)
        shrink = mean.dtype.type(self.penalty)
        self.clipped = 0
        for first in range(0, mean.size, BLOCK_ELEMENTS):
            block = slice(first, first + BLOCK_ELEMENTS)
            m = self._m[block]
            np.multiply(m, self._momentum, out=m)
            np.add(m, mean[block] / shrink, out=m)
            self.clipped += int(np.count_nonzero(np.abs(m) > self._clip))
            np.clip(m, -self._clip, self._clip, out=m)
            np.subtract(self._anchor[block], m * self._lr, out=self._anchor[block])
        self.restore()

    def _penalty(self, mean: Array) -> float:
        """L. One round ago the model moved by lr * m, which is what the averaged round does not know of."""
        round_length = length(mean)
        if not math.isfinite(round_length):
            raise ValueError(
                "the average of the members' moves is not finite: some member's parameters have diverged; lower the inner "
                "learning rate or look for the member whose loss is not a number"
            )
        if self._fixed is not None:
            return self._fixed
        moved = float(self._lr) * length(self._m)
        penalty = 1.0 + moved / round_length if round_length else 1.0
        if not math.isfinite(penalty):
            raise ValueError(
                f"the staleness gap penalty is not finite: the model moved by {moved:.3g} in the last outer step, the "
                f"members by {round_length:.3g} on average; lower lr or clip"
            )
        return penalty


def length(vector: Array) -> float:
    """The Euclidean norm, to about six digits, the same bits on every machine: sums are of whole numbers. NaN or infinity
    where ``vector`` has one."""
    if vector.size == 0:
        return 0.0
    largest = float(np.max(np.abs(vector)))
    if largest == 0 or not math.isfinite(largest):
        return largest
    total = 0
    for first in range(0, vector.size, BLOCK_ELEMENTS):
        whole = np.rint(vector[first : first + BLOCK_ELEMENTS].astype(np.float64) / largest * _GRID).astype(np.int64)
        total += int(np.sum(whole * whole))
    return largest * (math.sqrt(total) / _GRID)
