"""Communication hooks of DistributedDataParallel: those that lose nothing give one process's parameters.

Not here, as they fail on Gloo: `batched_powerSGD_hook` (in 2.13 it hands a matrix to a function of batches, anywhere), the
quantization hooks (they want futures of NCCL's form), and the hooks with ZeRO (refused by Gloo's name). Nor the built-in
FP16_COMPRESS, which Gloo passes: it is C++ and wants a future whose value is C++'s, which no Work in Python can give. No
annotations from the future: DDP looks at a hook's.
"""

import copy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import (
    debugging_hooks,
    default_hooks,
    post_localSGD_hook,
    powerSGD_hook,
)
from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn.parallel import DistributedDataParallel as DDP

from tests.torch_backend.clients.place import Place
from tests.torch_backend.clients.training import batches, fresh, loss_of, same, train

STEPS = 5
SMALL_BUCKET_MB = 0.0005
ONE_BUCKET_MB = 25.0
FULL_RANK = 64  # larger than any side of a gradient: nothing is lost


def _trained(place: Place, state: Any, hook: Any, bucket: float = SMALL_BUCKET_MB) -> nn.Module:
    model = DDP(fresh(), bucket_cap_mb=bucket)
    model.register_comm_hook(state, hook)
    return train(model, [(place.mine(x), place.mine(y)) for x, y in batches(STEPS)])


def _alone() -> nn.Module:
    return train(fresh(), batches(STEPS))


def check_allreduce(place: Place) -> None:
    same(_trained(place, None, default_hooks.allreduce_hook), _alone())


def _trained_in_cpp(place: Place, kind: dist.BuiltinCommHookType) -> nn.Module:
    model = DDP(fresh(), bucket_cap_mb=SMALL_BUCKET_MB)
    model._register_builtin_comm_hook(kind)
    return train(model, [(place.mine(x), place.mine(y)) for x, y in batches(STEPS)])


def check_allreduce_in_cpp(place: Place) -> None:
    """It calls the group without Python in between."""
    same(_trained_in_cpp(place, dist.BuiltinCommHookType.ALLREDUCE), _alone())


def check_compression_to_16_bits(place: Place) -> None:
    def halved(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        return default_hooks.bf16_compress_hook(state, bucket)  # by its own name, DDP allows it with NCCL only

    for hook in (default_hooks.fp16_compress_hook, halved):
        model = _trained(place, None, hook)
        same(model, _alone(), rtol=2e-2, atol=5e-3)
        assert not torch.equal(model.module.inner.weight, _alone().inner.weight)  # something was rounded
    same(
        _trained(place, None, default_hooks.fp16_compress_wrapper(default_hooks.allreduce_hook)),
        _alone(),
        rtol=1e-2,
        atol=2e-3,
    )


def check_power_sgd(place: Place) -> None:
    """Callbacks of its futures run collectives themselves. At full rank it loses nothing."""
    for warm in (True, False):
        state = powerSGD_hook.PowerSGDState(
            None, matrix_approximation_rank=FULL_RANK, start_powerSGD_iter=2, min_compression_rate=1e-3, warm_start=warm
        )
        same(_trained(place, state, powerSGD_hook.powerSGD_hook, ONE_BUCKET_MB), _alone(), rtol=1e-5, atol=1e-6)
        assert state.compression_stats()[1] > 0


def check_power_sgd_with_several_buckets(place: Place) -> None:
    """It wants callbacks in one order at all ranks: Gloo's two threads run them, and the collectives that they call, in any."""
    if place.backend == "gloo":
        return
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=FULL_RANK, start_powerSGD_iter=2, min_compression_rate=1e-3
    )
    same(_trained(place, state, powerSGD_hook.powerSGD_hook), _alone(), rtol=1e-5, atol=1e-6)


def check_power_sgd_at_rank_1(place: Place) -> None:
    """It loses much, and the same everywhere."""
    state = powerSGD_hook.PowerSGDState(
        None, matrix_approximation_rank=1, start_powerSGD_iter=2, min_compression_rate=1
    )
    model = _trained(place, state, powerSGD_hook.powerSGD_hook, ONE_BUCKET_MB)
    assert state.compression_stats()[0] > 1
    weight = model.module.inner.weight.detach()
    everybodys = [torch.empty_like(weight) for _ in range(place.size)]
    dist.all_gather(everybodys, weight)
    assert all(torch.equal(weight, theirs) for theirs in everybodys)
    assert not torch.allclose(weight, _alone().inner.weight, rtol=1e-5)


def check_noop(place: Place) -> None:
    """Nothing is reduced: each rank trains alone."""
    steps = [(place.mine(x), place.mine(y)) for x, y in batches(STEPS)]
    same(_trained(place, None, debugging_hooks.noop_hook), train(fresh(), steps))


def check_a_hook_with_a_chain_of_futures(place: Place) -> None:
    """A callback that reduces again, asynchronously, and hands on another future."""

    def hook(state: None, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        total = bucket.buffer() / dist.get_world_size()

        def again(first: torch.futures.Future[list[torch.Tensor]]) -> torch.Tensor:
            summed = first.value()[0]
            largest = summed.clone()
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)  # equal everywhere by now
            torch.testing.assert_close(largest, summed)
            return summed

        return dist.all_reduce(total, async_op=True).get_future().then(again)

    same(_trained(place, None, hook, ONE_BUCKET_MB), _alone())


def check_local_sgd(place: Place) -> None:
    """Each rank alone, and the mean of their parameters after each second step."""
    model = DDP(fresh())
    state = post_localSGD_hook.PostLocalSGDState(
        process_group=None, subgroup=dist.new_group([place.rank]), start_localSGD_iter=0
    )
    dist.barrier()
    model.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)
    averager = PeriodicModelAverager(period=2, warmup_steps=0)
    optimizer = PostLocalSGDOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), averager)
    for x, y in batches(3):
        optimizer.zero_grad()
        loss_of(model, (place.mine(x), place.mine(y))).backward()
        optimizer.step()
    common = fresh()
    for part in ([0], [1, 2]):  # averaged after the first step and after the third
        replicas = [copy.deepcopy(common) for _ in range(place.size)]
        for rank, replica in enumerate(replicas):
            steps = [(x[rank :: place.size], y[rank :: place.size]) for x, y in batches(3)]
            train(replica, [steps[i] for i in part], lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        with torch.no_grad():
            for target, *sources in zip(common.parameters(), *(r.parameters() for r in replicas), strict=True):
                target.copy_(torch.stack(list(sources)).mean(dim=0))
    same(model, common)
