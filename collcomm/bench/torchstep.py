"""A training step under DistributedDataParallel, and the batch at which half of it is communication."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

LAYERS = 10
RATE = 1e-3
GROWTH, BIGGEST, REFINEMENTS = 4, 1 << 14, 5
TARGET, CLOSE = 2.0, 0.05  # a step takes so many times what it takes without communication; near enough


class Step:
    """One step of plain SGD of an MLP with about ``parameters`` float32 parameters, equal at all ranks; each has data of its own.
    Without ``synchronised`` the gradients stay where they are."""

    def __init__(self, parameters: int, rank: int, group: Any, synchronised: bool):
        import torch
        from torch import nn

        self.width = max(1, round(math.sqrt(parameters / LAYERS)))
        torch.manual_seed(0)
        layers = [module for _ in range(LAYERS) for module in (nn.Linear(self.width, self.width), nn.ReLU())]
        self._torch, self._rank, self._synchronised = torch, rank, synchronised
        self._model = nn.parallel.DistributedDataParallel(nn.Sequential(*layers[:-1]), process_group=group)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=RATE)
        self.parameters = sum(parameter.numel() for parameter in self._model.parameters())
        self.set_batch(1)

    def set_batch(self, batch: int) -> None:
        chance = self._torch.Generator().manual_seed(self._rank + 1)
        self._inputs, self._targets = self._torch.randn(2, batch, self.width, generator=chance)

    def run(self) -> None:
        with contextlib.nullcontext() if self._synchronised else self._model.no_sync():
            loss = self._torch.nn.functional.mse_loss(self._model(self._inputs), self._targets)
            loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def flat(self) -> Any:
        """A copy of all parameters, one after the other."""
        return self._torch.cat([parameter.detach().reshape(-1) for parameter in self._model.parameters()])


def balanced_batch(ratio: Callable[[int], float]) -> int:
    """The batch whose ``ratio`` is about `TARGET`. The ratio falls as the batch grows: it is that of a step to the same without
    communication. 1 where even that is too much; measures some ten batches."""
    found = {1: ratio(1)}
    low = high = 1
    while found[high] > TARGET and high < BIGGEST:
        low, high = high, high * GROWTH
        found[high] = ratio(high)
    for _ in range(REFINEMENTS):
        middle = round(math.sqrt(low * high))
        if middle in found or min(abs(value - TARGET) for value in found.values()) < CLOSE:
            break
        found[middle] = ratio(middle)
        low, high = (middle, high) if found[middle] > TARGET else (low, middle)
    return min(found, key=lambda batch: abs(found[batch] - TARGET))
