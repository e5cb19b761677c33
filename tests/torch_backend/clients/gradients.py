"""Collectives that autograd goes through: values, and gradients that come from all ranks' losses."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
import torch.distributed.nn.functional as differentiable

from tests.torch_backend.clients.place import Place


def _leaf(place: Place) -> torch.Tensor:
    return torch.full((place.size,), float(place.rank + 1), dtype=torch.float64, requires_grad=True)


def _weights(place: Place, rank: int) -> torch.Tensor:
    """Gradients that a rank's loss brings, other ones at each rank and place."""
    return torch.arange(1.0, place.size + 1, dtype=torch.float64) * (rank + 1)


def _gradient(place: Place, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    (y * _weights(place, place.rank)).sum().backward()
    assert x.grad is not None
    return x.grad


def check_gradient_of_all_reduce(place: Place) -> None:
    ranks = range(place.size)
    total = sum(rank + 1.0 for rank in ranks)
    x = _leaf(place)
    y = differentiable.all_reduce(x)
    torch.testing.assert_close(y.detach(), torch.full_like(x, total).detach())
    torch.testing.assert_close(_gradient(place, x, y), torch.stack([_weights(place, rank) for rank in ranks]).sum(0))


def check_gradient_of_gathering(place: Place) -> None:
    """What comes back is the sum of what all losses say about this rank's part."""
    total = sum(rank + 1.0 for rank in range(place.size))
    expected = torch.arange(1.0, place.size + 1, dtype=torch.float64) * total
    x = _leaf(place)
    parts = differentiable.all_gather(x)
    torch.testing.assert_close(parts[-1].detach(), torch.full_like(x, place.size).detach())
    y = torch.stack(list(parts)).sum(0)
    torch.testing.assert_close(_gradient(place, x, y), expected)
    x = _leaf(place)
    y = funcol.all_gather_tensor_autograd(x, 0, dist.group.WORLD).reshape(place.size, place.size).sum(0)
    torch.testing.assert_close(_gradient(place, x, y), expected)


def check_gradient_of_scattering(place: Place) -> None:
    """Each part's gradient is that of whoever has got the part."""
    x = _leaf(place)
    y = funcol.reduce_scatter_tensor_autograd(x, "sum", 0, dist.group.WORLD)
    assert y.shape == (1,)
    (y * (place.rank + 1)).sum().backward()
    torch.testing.assert_close(x.grad, torch.arange(1.0, place.size + 1, dtype=torch.float64))
    x = _leaf(place)
    out = differentiable.reduce_scatter(torch.empty(1, dtype=torch.float64), list(x.split(1)))
    (out * (place.rank + 1)).sum().backward()
    torch.testing.assert_close(x.grad, torch.arange(1.0, place.size + 1, dtype=torch.float64))


def check_gradient_of_all_to_all(place: Place) -> None:
    for form in range(3):
        x = _leaf(place)
        if form == 0:
            y = funcol.all_to_all_single_autograd(x, [1] * place.size, [1] * place.size, dist.group.WORLD)
        elif form == 1:
            y = differentiable.all_to_all_single(torch.empty_like(x), x)
        else:
            y = torch.cat(list(differentiable.all_to_all([torch.empty_like(p) for p in x.split(1)], list(x.split(1)))))
        torch.testing.assert_close(y.detach(), torch.arange(1.0, place.size + 1, dtype=torch.float64))
        back = torch.arange(1.0, place.size + 1, dtype=torch.float64) * (place.rank + 1)
        torch.testing.assert_close(_gradient(place, x, y), back)


def check_gradient_of_rooted_ones(place: Place) -> None:
    """Broadcast sums gradients at the root, reduce spreads them, gather and scatter are each other's."""
    total = torch.stack([_weights(place, rank) for rank in range(place.size)]).sum(0)
    zero = torch.zeros(place.size, dtype=torch.float64)
    x = _leaf(place)
    torch.testing.assert_close(_gradient(place, x, differentiable.broadcast(x, 0)), total if place.rank == 0 else zero)
    x = _leaf(place)
    y = differentiable.reduce(x, 1)
    torch.testing.assert_close(_gradient(place, x, y), _weights(place, 1))
    x = _leaf(place)
    y = torch.stack(list(differentiable.gather(x, 0))).sum(0)
    torch.testing.assert_close(_gradient(place, x, y), _weights(place, 0))
    x = _leaf(place)
    y = differentiable.scatter([x * (rank + 1) for rank in range(place.size)], 0)
    torch.testing.assert_close(y.detach(), torch.full_like(x, place.rank + 1.0).detach())
    expected = sum((_weights(place, rank) * (rank + 1) for rank in range(place.size)), zero)
    torch.testing.assert_close(_gradient(place, x, y), expected if place.rank == 0 else zero)
