"""FSDP, old and new, gives the parameters of one process that trains on the joined batch.

Not here: FSDP1's `sync_module_states` wants a GPU, and its full state dict on the CPU fails in 2.13 before it calls any group.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    ShardingStrategy,
    fully_shard,
)
from torch.distributed.tensor import DTensor

from tests.torch_backend.clients.place import Place
from tests.torch_backend.clients.training import Batch, batches, fresh, loss_of, momentum, same, train

STEPS = 3


def _mine(place: Place, steps: list[Batch]) -> list[Batch]:
    return [(place.mine(x), place.mine(y)) for x, y in steps]


def _sharded(model: nn.Module, **options: Any) -> nn.Module:
    for layer in model.children():
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def _mesh(place: Place, *shape: int) -> dist.DeviceMesh:
    names = ("replicas", "shards")[-len(shape) :] if shape else ("shards",)
    return dist.init_device_mesh("cpu", shape or (place.size,), mesh_dim_names=names)


def check_fully_shard(place: Place) -> None:
    """Sizes of parameters do not divide by three."""
    for reshard in (True, False):
        model = _sharded(fresh(), mesh=_mesh(place), reshard_after_forward=reshard)
        weight = model.get_parameter("inner.weight")
        assert isinstance(weight, DTensor) and weight.to_local().numel() < weight.numel()
        same(train(model, _mine(place, batches(STEPS))), train(fresh(), batches(STEPS)))


def check_fully_shard_in_16_bits(place: Place) -> None:
    """Equal to averaging in float32 what each rank's own copy in bfloat16 says."""
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = _sharded(fresh(torch.float32), mesh=_mesh(place), mp_policy=policy)
    train(model, _mine(place, batches(STEPS, torch.float32)))
    expected = fresh(torch.float32)
    optimizer = momentum(expected.parameters())
    for x, y in batches(STEPS, torch.float32):
        optimizer.zero_grad()
        for rank in range(place.size):
            rounded = copy.deepcopy(expected).bfloat16()
            rounded.zero_grad()
            prediction = rounded(x[rank :: place.size].bfloat16())
            (prediction - y[rank :: place.size]).square().mean().backward()
            for target, source in zip(expected.parameters(), rounded.parameters(), strict=True):
                assert source.grad is not None
                part = source.grad.float() / place.size
                target.grad = part if target.grad is None else target.grad + part
        optimizer.step()
    same(model, expected, rtol=1e-4, atol=1e-5)


def check_fully_shard_reducing_16_bits(place: Place) -> None:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
    model = _sharded(fresh(torch.float32), mesh=_mesh(place), mp_policy=policy)
    train(model, _mine(place, batches(STEPS, torch.float32)))
    same(model, train(fresh(torch.float32), batches(STEPS, torch.float32)), rtol=5e-2, atol=1e-2)


def check_accumulation_without_reductions(place: Place) -> None:
    """Gradients of two batches are reduced once."""
    model, expected = _sharded(fresh(), mesh=_mesh(place)), fresh()
    steps = batches(2)
    for index, batch in enumerate(_mine(place, steps)):
        model.set_requires_gradient_sync(index == 1)  # type: ignore[operator]
        loss_of(model, batch).backward()
    for batch in steps:
        loss_of(expected, batch).backward()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert isinstance(mine.grad, DTensor)
        torch.testing.assert_close(mine.grad.full_tensor(), theirs.grad)


def check_norms_and_clipping(place: Place) -> None:
    """A norm over shards, and gradients that are scaled by it."""
    model, expected = _sharded(fresh(), mesh=_mesh(place)), fresh()
    batch = batches(1)[0]
    loss_of(model, _mine(place, [batch])[0]).backward()
    loss_of(expected, batch).backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    assert isinstance(norm, DTensor)
    torch.testing.assert_close(norm.full_tensor(), nn.utils.clip_grad_norm_(expected.parameters(), 0.1))
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert isinstance(mine.grad, DTensor)
        torch.testing.assert_close(mine.grad.full_tensor(), theirs.grad)


def check_other_divisors_and_offload(place: Place) -> None:
    """Gradients are divided by what is asked for; shards lie where the offload policy says, here in the same memory."""
    model = _sharded(fresh(), mesh=_mesh(place), offload_policy=CPUOffloadPolicy(pin_memory=False))
    for module in model.modules():
        if hasattr(module, "set_gradient_divide_factor"):
            module.set_gradient_divide_factor(1.0)
    batch = batches(1)[0]
    loss_of(model, _mine(place, [batch])[0]).backward()
    expected = fresh()
    (loss_of(expected, batch) * place.size).backward()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert isinstance(mine.grad, DTensor)
        torch.testing.assert_close(mine.grad.full_tensor(), theirs.grad)


def check_adam(place: Place) -> None:
    def make(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=0.01)

    model = _sharded(fresh(), mesh=_mesh(place))
    same(train(model, _mine(place, batches(STEPS)), make), train(fresh(), batches(STEPS), make))


def check_meta_device(place: Place) -> None:
    """Materialised shard by shard, then filled from rank 0's state."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    with torch.device("meta"):
        model = _sharded(fresh(), mesh=_mesh(place))
    model.to_empty(device="cpu")
    state = fresh(seed=9).state_dict() if place.rank == 0 else {}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, state, options=options)
    same(model, fresh(seed=9))


def _whole(model: FullyShardedDataParallel, look: Callable[[nn.Module], None]) -> None:
    with FullyShardedDataParallel.summon_full_params(model):
        look(model.module)


def check_fsdp_1(place: Place) -> None:
    for strategy in (ShardingStrategy.FULL_SHARD, ShardingStrategy.SHARD_GRAD_OP, ShardingStrategy.NO_SHARD):
        model = FullyShardedDataParallel(
            fresh(), sharding_strategy=strategy, device_id=torch.device("cpu"), use_orig_params=True
        )
        train(model, _mine(place, batches(STEPS)))
        expected = train(fresh(), batches(STEPS))
        _whole(model, lambda module, expected=expected: same(module, expected))


def check_hybrid_of_fsdp_1_and_2(place: Place) -> None:
    """Shards within half of the ranks, replicas over the other half; of four ranks only."""
    if place.size != 4:
        return
    mesh = _mesh(place, 2, 2)
    same(train(_sharded(fresh(), mesh=mesh), _mine(place, batches(STEPS))), train(fresh(), batches(STEPS)))
    old = FullyShardedDataParallel(
        fresh(), sharding_strategy=ShardingStrategy.HYBRID_SHARD, device_mesh=mesh, device_id=torch.device("cpu")
    )
    train(old, _mine(place, batches(STEPS)))
    expected = train(fresh(), batches(STEPS))
    _whole(old, lambda module: same(module, expected))
