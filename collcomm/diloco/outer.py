"""The outer optimizer: SGD with Nesterov momentum over one flat vector."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BLOCK_ELEMENTS = 1 << 15  # of f32: four operands of 128 KiB each stay in L2 for the six passes over them


class NesterovSGD:
    """SGD with Nesterov momentum, as torch.optim.SGD(nesterov=True) without dampening defines it:

        buffer = momentum * buffer + gradient;   parameters -= lr * (gradient + momentum * buffer)

    The operations are separate elementwise multiplications and additions in a fixed order, so that equal inputs give
    equal bits on every machine. Beyond ``buffer``, which is as large as the parameters, it needs 128 KiB.

    :param size: number of parameters.
    :param lr: outer learning rate; DiLoCo (arXiv 2311.08105) found 0.7.
    :param momentum: 0 is plain SGD; DiLoCo found 0.9.
    """

    def __init__(self, size: int, dtype: npt.DTypeLike = np.float32, lr: float = 0.7, momentum: float = 0.9):
        if not (lr > 0 and math.isfinite(lr)):
            raise ValueError(f"lr must be a positive number, not {lr!r}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be from 0 to less than 1, not {momentum!r}")
        self.buffer: Array = np.zeros(size, dtype)
        self._scratch: Array = np.empty(min(size, BLOCK_ELEMENTS), dtype)
        self._lr = self.buffer.dtype.type(lr)
        self._momentum = self.buffer.dtype.type(momentum)

    def step(self, parameters: Array, gradient: Array) -> None:
        """Move ``parameters`` in place. ``gradient`` keeps its values. Both are vectors of ``size`` elements."""
        expected = (self.buffer.shape, self.buffer.dtype)
        for what, array in (("parameters", parameters), ("gradient", gradient)):
            if (array.shape, array.dtype) != expected:
                raise ValueError(f"{what}: expected {expected[0]} of {expected[1]}, not {array.shape} of {array.dtype}")
        for first in range(0, self.buffer.size, BLOCK_ELEMENTS):
            block = slice(first, first + BLOCK_ELEMENTS)
            buffer, slope = self.buffer[block], gradient[block]
            move = self._scratch[: buffer.size]
            np.multiply(buffer, self._momentum, out=buffer)
            np.add(buffer, slope, out=buffer)
            np.multiply(buffer, self._momentum, out=move)
            np.add(move, slope, out=move)
            np.multiply(move, self._lr, out=move)
            np.subtract(parameters[block], move, out=parameters[block])
