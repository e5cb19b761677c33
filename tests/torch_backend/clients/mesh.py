"""DeviceMesh, DTensor and tensor parallelism: whole tensors come out, wherever their parts have been.

Not here: random DTensors want an accelerator's generator; tensor parallelism wants layers that divide evenly.
"""

from __future__ import annotations

import itertools

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.experimental import local_map
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)

from tests.torch_backend.clients.place import Place
from tests.torch_backend.clients.training import HIDDEN, WIDTH, Batch, Net, batches, fresh, same, train

STEPS = 3


def _shape(place: Place) -> tuple[int, int]:
    return (2, 2) if place.size == 4 else (place.size, 1)


def _line(place: Place) -> DeviceMesh:
    return init_device_mesh("cpu", (place.size,), mesh_dim_names=("line",))


def _plane(place: Place) -> DeviceMesh:
    return init_device_mesh("cpu", _shape(place), mesh_dim_names=("data", "model"))


def _numbers(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel()), dtype=torch.float64).reshape(shape)


def check_groups_of_a_mesh(place: Place) -> None:
    mesh = _plane(place)
    rows, columns = _shape(place)
    row, column = divmod(place.rank, columns)
    assert list(mesh.get_coordinate() or ()) == [row, column] and mesh.size() == place.size
    for name, members in (
        ("data", range(column, place.size, columns)),
        ("model", range(row * columns, (row + 1) * columns)),
    ):
        value = torch.tensor([float(place.rank)])
        dist.all_reduce(value, group=mesh.get_group(name))
        assert value.item() == sum(members)
    assert mesh["model"].size() == columns and mesh["data"].get_local_rank() == row
    flat = mesh["data", "model"]._flatten("everything")
    value = torch.tensor([float(place.rank)])
    dist.all_reduce(value, group=flat.get_group())
    assert value.item() == sum(range(place.size)) and rows * columns == place.size


def check_mesh_from_groups(place: Place) -> None:
    mesh = DeviceMesh.from_group(dist.group.WORLD, "cpu", mesh_dim_names=("line",))
    whole = _numbers(5, 3)
    torch.testing.assert_close(distribute_tensor(whole, mesh, [Shard(0)]).full_tensor(), whole)


def check_redistribution_each_way(place: Place) -> None:
    """From and to shards of both dimensions, replicas and partial sums; sizes that do not divide evenly."""
    mesh = _line(place)
    whole = _numbers(7, 5)
    kinds: list[Placement] = [Shard(0), Shard(1), Replicate()]
    for source, target in itertools.product(kinds, kinds):
        moved = distribute_tensor(whole, mesh, [source]).redistribute(mesh, [target])
        torch.testing.assert_close(moved.full_tensor(), whole, msg=f"{source} to {target}")
    for reduction, factor in (("sum", place.size), ("avg", 1)):
        for target in kinds:
            parts = DTensor.from_local(whole, mesh, [Partial(reduction)])
            torch.testing.assert_close(parts.redistribute(mesh, [target]).full_tensor(), whole * factor)
    for reduction, expected in (("max", place.size - 1), ("min", 0)):
        parts = DTensor.from_local(torch.full((3, 4), float(place.rank)), mesh, [Partial(reduction)])
        torch.testing.assert_close(parts.full_tensor(), torch.full((3, 4), float(expected)))


def check_two_dimensions(place: Place) -> None:
    mesh = _plane(place)
    whole = _numbers(6, 10)
    kinds: list[Placement] = [Shard(0), Shard(1), Replicate()]
    for source in itertools.product(kinds, kinds):
        scattered = distribute_tensor(whole, mesh, source)
        torch.testing.assert_close(scattered.full_tensor(), whole, msg=f"{source}")
        turned = scattered.redistribute(mesh, list(reversed(source)))
        torch.testing.assert_close(turned.full_tensor(), whole, msg=f"{source} turned")


def check_arithmetic(place: Place) -> None:
    """A product of shards along the inner dimension is a partial sum; its gradient comes back to the shards."""
    mesh = _line(place)
    left, right = _numbers(4, 12).div(10), _numbers(12, 5).div(7)
    a = distribute_tensor(left, mesh, [Shard(1)]).requires_grad_()
    b = distribute_tensor(right, mesh, [Shard(0)])
    product = a @ b
    assert product.placements == (Partial(),), product.placements
    torch.testing.assert_close(product.full_tensor(), left @ right)
    product.square().sum().full_tensor().backward()
    alone = left.clone().requires_grad_()
    (alone @ right).square().sum().backward()
    assert isinstance(a.grad, DTensor)
    torch.testing.assert_close(a.grad.full_tensor(), alone.grad)
    for reduced, expected in ((a.sum(), left.sum()), (a.mean(0), left.mean(0)), (a.amax(1), left.amax(1))):
        torch.testing.assert_close(reduced.full_tensor().detach(), expected)
    torch.testing.assert_close(a.softmax(1).full_tensor().detach(), left.softmax(1))


def check_rank_0s_values(place: Place) -> None:
    """`distribute_tensor` takes the first rank's, by a scatter or a broadcast."""
    mesh = _line(place)
    for placement in (Shard(0), Replicate()):
        given = _numbers(5, 2) + 100 * place.rank
        torch.testing.assert_close(distribute_tensor(given, mesh, [placement]).full_tensor(), _numbers(5, 2))


def check_a_function_of_parts(place: Place) -> None:
    mesh = _line(place)
    double = local_map(lambda x: 2 * x, out_placements=[Shard(0)], in_placements=([Shard(0)],), device_mesh=mesh)
    torch.testing.assert_close(
        double(distribute_tensor(_numbers(12, 3), mesh, [Shard(0)])).full_tensor(), 2 * _numbers(12, 3)
    )


PLAN: dict[str, ParallelStyle] = {"inner": ColwiseParallel(), "outer": RowwiseParallel()}


def check_tensor_parallel(place: Place) -> None:
    """Every rank sees the whole batch and a part of each layer."""
    model = parallelize_module(fresh(), _line(place), PLAN)
    assert model.inner.weight.to_local().shape[0] == HIDDEN // place.size
    same(train(model, batches(STEPS)), train(fresh(), batches(STEPS)))


class _Normed(nn.Module):
    """A norm, sharded along the sequence, before a parallel pair of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH, dtype=torch.float64)
        self.net = fresh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.net(self.norm(x))
        return y


def check_sequence_parallel(place: Place) -> None:
    rows = PrepareModuleInput(input_layouts=Replicate(), desired_input_layouts=Shard(0), use_local_output=True)
    plan: dict[str, ParallelStyle] = {
        "norm": SequenceParallel(sequence_dim=0),
        "net": PrepareModuleInput(input_layouts=Shard(0), desired_input_layouts=Replicate()),
        "net.inner": ColwiseParallel(),
        "net.outer": RowwiseParallel(),
    }
    mesh = _line(place)
    model = parallelize_module(parallelize_module(_Normed(), mesh, plan), mesh, rows)
    same(train(model, batches(STEPS)), train(_Normed(), batches(STEPS)))


def check_loss_over_shards_of_classes(place: Place) -> None:
    mesh = _line(place)
    logits, answers = batches(1)[0][0], torch.arange(len(batches(1)[0][0])) % WIDTH
    spread = distribute_tensor(logits, mesh, [Shard(1)]).requires_grad_()
    alone = logits.clone().requires_grad_()
    with loss_parallel():
        loss = nn.functional.cross_entropy(spread, answers)
        loss.backward()
    expected = nn.functional.cross_entropy(alone, answers)
    expected.backward()
    torch.testing.assert_close(loss.full_tensor(), expected)
    assert isinstance(spread.grad, DTensor)
    torch.testing.assert_close(spread.grad.full_tensor(), alone.grad)


def check_tensor_parallel_under_fsdp(place: Place) -> None:
    """Each row of the mesh has a part of the batch, each column a part of the layers."""
    mesh = _plane(place)
    rows, columns = _shape(place)
    row = place.rank // columns
    model: Net = parallelize_module(fresh(), mesh["model"], PLAN)
    dist.fsdp.fully_shard(model, mesh=mesh["data"])
    mine: list[Batch] = [(x[row::rows], y[row::rows]) for x, y in batches(STEPS)]
    same(train(model, mine), train(fresh(), batches(STEPS)))
