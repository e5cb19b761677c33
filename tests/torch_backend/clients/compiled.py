"""Under torch.compile: functional and ordinary collectives inside of a graph, DDP and FSDP2 around one."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
import torch._dynamo.utils
import torch._inductor.config
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel as DDP

from tests.torch_backend.clients.place import Place
from tests.torch_backend.clients.training import batches, fresh, same, train

CHECK_SECONDS = 90.0
torch._inductor.config.cpp_cache_precompile_headers = False  # few kernels: it pays for many
torch._inductor.config.cpp.vec_isa_ok = False  # no test programs for what the processor can do
ALL = ["aot_eager", *(["inductor"] if shutil.which("g++") else [])]  # it runs a compiler of C++, for seconds a graph
QUICK = ["aot_eager"]


def _graphs(function: Callable[..., torch.Tensor], backend: str) -> Callable[..., torch.Tensor]:
    torch._dynamo.reset()
    compiled: Callable[..., torch.Tensor] = torch.compile(function, backend=backend, fullgraph=True)
    return compiled


def check_functional_collectives(place: Place) -> None:
    """All of them in one graph, their results mixed with arithmetic."""
    n, me = place.size, place.rank
    onwards = [(rank + 1) % n for rank in range(n)]

    def step(x: torch.Tensor) -> torch.Tensor:
        group = dist.group.WORLD
        total = funcol.all_reduce(x * 2, "sum", group)
        gathered = funcol.all_gather_tensor(x + 1, 0, group)
        part = funcol.reduce_scatter_tensor(gathered, "sum", 0, group)
        swapped = funcol.all_to_all_single(x, None, None, group)
        first = funcol.broadcast(x - 1, 0, group)
        neighbours = funcol.permute_tensor(x, onwards, group)
        return torch.stack([total, part, swapped, first, neighbours]).sin()

    xs = torch.stack([torch.arange(n, dtype=torch.float64) / 7 + rank for rank in range(n)])
    expected = torch.stack([2 * xs.sum(0), n * (xs[me] + 1), xs[:, me], xs[0] - 1, xs[(me - 1) % n]]).sin()
    for backend in ALL:
        function = _graphs(step, backend)
        for _ in range(2):
            torch.testing.assert_close(
                function(xs[me].clone()), expected, msg=lambda text, backend=backend: f"{backend}: {text}"
            )


def check_uneven_all_to_all(place: Place) -> None:
    counts = [1 + place.rank + rank for rank in range(place.size)]

    def step(x: torch.Tensor) -> torch.Tensor:
        return funcol.all_to_all_single(x, counts, counts, dist.group.WORLD) + 1

    sent = torch.cat([torch.full((count,), 10.0 * place.rank + rank) for rank, count in enumerate(counts)])
    expected = torch.cat([torch.full((count,), 10.0 * rank + place.rank + 1) for rank, count in enumerate(counts)])
    for backend in QUICK:
        torch.testing.assert_close(_graphs(step, backend)(sent), expected)


def check_several_at_once(place: Place) -> None:
    """Coalesced by the program, or by the compiler, which joins neighbours."""

    def step(x: torch.Tensor) -> torch.Tensor:
        group = dist.group.WORLD
        one, two = funcol.all_reduce_coalesced([x, x * x], "sum", group)
        wide, other = funcol.all_gather_into_tensor_coalesced([x, x + 1], group)
        three = funcol.all_reduce(x + 2, "max", group)
        four = funcol.all_reduce(x + 3, "max", group)
        return torch.cat([one, two, wide, other, three, four]).cos()

    xs = torch.stack([torch.arange(3, dtype=torch.float64) + rank for rank in range(place.size)])
    top = xs.amax(0)
    parts = [xs.sum(0), xs.square().sum(0), xs.flatten(), (xs + 1).flatten(), top + 2, top + 3]
    for backend in ALL:
        torch.testing.assert_close(_graphs(step, backend)(xs[place.rank].clone()), torch.cat(parts).cos())


def check_ordinary_collectives(place: Place) -> None:
    """In-place ones, which dynamo turns into functional ones."""

    def step(x: torch.Tensor) -> torch.Tensor:
        total = x * 2
        dist.all_reduce(total)
        wide = torch.empty(place.size * len(x), dtype=x.dtype)
        dist.all_gather_into_tensor(wide, x)
        part = torch.empty_like(x)
        dist.reduce_scatter_tensor(part, wide)
        swapped = torch.empty_like(x)
        dist.all_to_all_single(swapped, x)
        return torch.stack([total, part, swapped]).sin()

    xs = torch.stack([torch.arange(place.size, dtype=torch.float64) + rank for rank in range(place.size)])
    mine = xs[place.rank]
    expected = torch.stack([2 * xs.sum(0), place.size * mine, xs[:, place.rank]]).sin()
    for backend in QUICK:
        torch.testing.assert_close(_graphs(step, backend)(mine.clone()), expected)


def check_gradients(place: Place) -> None:
    """Through a gather and its backward, both compiled."""

    def step(x: torch.Tensor) -> torch.Tensor:
        return funcol.all_gather_tensor_autograd(x.sin(), 0, dist.group.WORLD).square().sum()

    xs = torch.arange(place.size * 3, dtype=torch.float64).reshape(place.size, 3)
    for backend in QUICK:
        x = xs[place.rank].clone().requires_grad_()
        value = _graphs(step, backend)(x)
        torch.testing.assert_close(value.detach(), xs.sin().square().sum())
        value.backward()
        torch.testing.assert_close(x.grad, place.size * 2 * x.sin().detach() * x.cos().detach())


def check_dtensors(place: Place) -> None:
    mesh = init_device_mesh("cpu", (place.size,))
    left, right = torch.randn(4, 12, dtype=torch.float64), torch.randn(12, 5, dtype=torch.float64)

    def product(a: DTensor, b: DTensor) -> torch.Tensor:
        return (a @ b).full_tensor().relu()

    a, b = distribute_tensor(left, mesh, [Shard(1)]), distribute_tensor(right, mesh, [Shard(0)])
    for backend in QUICK:
        torch.testing.assert_close(_graphs(product, backend)(a, b), (left @ right).relu())


def check_ddp(place: Place) -> None:
    """Its hooks beside a compiled graph."""
    mine = [(place.mine(x), place.mine(y)) for x, y in batches(3)]
    for backend in ALL:
        torch._dynamo.reset()
        model = torch.compile(DDP(fresh()), backend=backend)
        same(train(model, mine), train(fresh(), batches(3)))  # type: ignore[arg-type]


def check_fully_shard(place: Place) -> None:
    """Its hooks around a compiled block."""
    mine = [(place.mine(x), place.mine(y)) for x, y in batches(3)]
    mesh = init_device_mesh("cpu", (place.size,))
    for backend in QUICK:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        block = fresh()
        block.compile(backend=backend)
        model = fully_shard(nn.Sequential(fully_shard(block, mesh=mesh)), mesh=mesh)
        same(train(model, mine), train(fresh(), batches(3)))
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
