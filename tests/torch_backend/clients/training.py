"""A small model, batches that all ranks know, and training on them: the same steps with a group and without one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

WIDTH = 8
HIDDEN = 12  # tensor parallelism wants parts of one size
CLASSES = 4
ROWS = 12  # of a whole batch: a multiple of two, three and four ranks
Batch = tuple[torch.Tensor, torch.Tensor]


class Net(nn.Module):
    """Float64 unless told otherwise, so that an order of additions does not show."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.inner = nn.Linear(WIDTH, HIDDEN, dtype=dtype)
        self.outer = nn.Linear(HIDDEN, CLASSES, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(torch.relu(self.inner(x)))


def fresh(dtype: torch.dtype = torch.float64, seed: int = 3) -> Net:
    torch.manual_seed(seed)
    return Net(dtype)


def batches(steps: int, dtype: torch.dtype = torch.float64, seed: int = 11) -> list[Batch]:
    source = torch.Generator().manual_seed(seed)

    def draw(width: int) -> torch.Tensor:
        return torch.randn(ROWS, width, generator=source, dtype=torch.float64).to(dtype)

    return [(draw(WIDTH), draw(CLASSES)) for _ in range(steps)]


def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def momentum(parameters: Iterable[torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def train(
    model: nn.Module,
    steps: Sequence[Batch],
    make: Callable[[Iterable[torch.Tensor]], torch.optim.Optimizer] = momentum,
) -> nn.Module:
    """``model`` itself, after a step on each batch."""
    optimizer = make(model.parameters())
    for batch in steps:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    return model


def same(model: nn.Module, expected: nn.Module, **tolerance: float) -> None:
    """Equal parameters, in their order."""
    for (name, mine), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        whole = mine.full_tensor() if hasattr(mine, "full_tensor") else mine
        bounds = tolerance or {"rtol": 1e-9, "atol": 1e-11}
        torch.testing.assert_close(whole, theirs, **bounds, msg=lambda text, name=name: f"{name}: {text}")
