"""DistributedDataParallel gives the parameters of one process that trains on the joined batch.

Not here, as Gloo has none of it on the CPU: SyncBatchNorm, mixed precision, and optimizers within the backward pass want an
accelerator.
"""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel as DDP

from tests.torch_backend.clients.place import Place
from tests.torch_backend.clients.training import CLASSES, WIDTH, Batch, batches, fresh, loss_of, momentum, same, train

STEPS = 4
SMALL_BUCKET_MB = 0.0005  # several buckets for some hundred parameters


def _mine(place: Place, steps: list[Batch]) -> list[Batch]:
    return [(place.mine(x), place.mine(y)) for x, y in steps]


def check_plain(place: Place) -> None:
    for bucket in (25.0, SMALL_BUCKET_MB):
        model = DDP(fresh(seed=place.rank), bucket_cap_mb=bucket)  # rank 0's parameters are everybody's
        same(train(model, _mine(place, batches(STEPS))), train(fresh(seed=0), batches(STEPS)))


def check_static_graph(place: Place) -> None:
    model = DDP(fresh(), static_graph=True, bucket_cap_mb=SMALL_BUCKET_MB)
    same(train(model, _mine(place, batches(STEPS))), train(fresh(), batches(STEPS)))


def check_gradient_as_bucket_view(place: Place) -> None:
    model = DDP(fresh(), gradient_as_bucket_view=True, bucket_cap_mb=SMALL_BUCKET_MB)
    same(train(model, _mine(place, batches(STEPS))), train(fresh(), batches(STEPS)))


class _Branching(nn.Module):
    """Uses one of two branches: a different one at each step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.branches = nn.ModuleList([nn.Linear(WIDTH, CLASSES, dtype=torch.float64) for _ in range(2)])
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        used: torch.Tensor = self.branches[self.calls % 2](x)
        return used


def check_find_unused_parameters(place: Place) -> None:
    model = DDP(_Branching(), find_unused_parameters=True, bucket_cap_mb=SMALL_BUCKET_MB)
    same(train(model, _mine(place, batches(STEPS))), train(_Branching(), batches(STEPS)))


class _OnlyAt(_Branching):
    """Its second branch is used where it is told so."""

    def __init__(self, here: bool) -> None:
        super().__init__()
        self.here = here

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first: torch.Tensor = self.branches[0](x)
        return first + self.branches[1](x) if self.here else first


def check_a_parameter_that_one_rank_uses(place: Place) -> None:
    model = DDP(_OnlyAt(place.rank == 0), find_unused_parameters=True)
    (x, y), *_ = batches(1)
    loss_of(model, (place.mine(x), place.mine(y))).backward()
    expected = _OnlyAt(True)
    for rank in range(place.size):
        expected.here = rank == 0
        (loss_of(expected, (x[rank :: place.size], y[rank :: place.size])) / place.size).backward()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def _uneven(rank: int) -> list[Batch]:
    return batches(2 + rank, seed=100 + rank)


def check_join_with_uneven_inputs(place: Place) -> None:
    """Steps after some have ended are those of the others' gradients, divided by the whole group's size."""
    model = DDP(fresh(), bucket_cap_mb=SMALL_BUCKET_MB)
    optimizer = momentum(model.parameters())
    with Join([model]):
        for batch in _uneven(place.rank):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            optimizer.step()
    expected = fresh()
    optimizer = momentum(expected.parameters())
    all_steps = [_uneven(rank) for rank in range(place.size)]
    for step in range(1 + place.size):
        optimizer.zero_grad()
        torch.stack(
            [loss_of(expected, steps[step]) / place.size for steps in all_steps if len(steps) > step]
        ).sum().backward()
        optimizer.step()
        if step == len(all_steps[place.rank]) - 1 and place.rank == 0:
            early = copy.deepcopy(expected)
    same(model, expected)  # also where inputs ended early: the last to end hands its parameters on
    assert place.rank or not torch.equal(early.inner.weight, expected.inner.weight)


def check_join_that_ends_all_when_one_ends(place: Place) -> None:
    model = DDP(fresh())
    done = []

    def loop() -> None:
        with model.join(throw_on_early_termination=True):
            for batch in _uneven(place.rank):
                loss_of(model, batch).backward()
                done.append(batch)

    with pytest.raises(RuntimeError, match="exhausted"):
        loop()
    assert len(done) == 2
    dist.barrier()


def check_no_sync(place: Place) -> None:
    """Gradients of several batches are summed at home and averaged once."""
    steps = batches(3)
    model, expected = DDP(fresh()), fresh()
    with model.no_sync():
        for batch in _mine(place, steps[:2]):
            loss_of(model, batch).backward()
    alone = copy.deepcopy(model.module.inner.weight.grad)
    loss_of(model, _mine(place, steps[2:])[0]).backward()
    for batch in steps:
        loss_of(expected, batch).backward()
    for mine, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    everybodys = [torch.empty_like(alone) for _ in range(place.size)]
    dist.all_gather(everybodys, alone)
    assert not torch.equal(everybodys[0], everybodys[1])


def check_buffers_are_rank_0s(place: Place) -> None:
    """Running statistics, one in float and one in int64, before each forward."""
    norm = nn.BatchNorm1d(WIDTH, momentum=0.0)
    model = DDP(nn.Sequential(norm, nn.Linear(WIDTH, CLASSES)))
    for buffer in (norm.running_mean, norm.running_var, norm.num_batches_tracked):
        assert buffer is not None
        buffer.fill_(5 + place.rank)
    x, y = batches(1, torch.float32)[0]
    loss_of(model, (place.mine(x), place.mine(y))).backward()
    assert norm.running_mean is not None and norm.num_batches_tracked is not None
    assert norm.running_mean.tolist() == [5.0] * WIDTH
    assert norm.num_batches_tracked.item() == 6


def check_buffers_stay_when_told_so(place: Place) -> None:
    norm = nn.BatchNorm1d(WIDTH, momentum=0.0)
    model = DDP(nn.Sequential(norm, nn.Linear(WIDTH, CLASSES)), broadcast_buffers=False)
    assert norm.running_mean is not None
    norm.running_mean.fill_(place.rank)
    x, y = batches(1, torch.float32)[0]
    loss_of(model, (place.mine(x), place.mine(y))).backward()
    assert norm.running_mean.tolist() == [float(place.rank)] * WIDTH


def check_in_a_sub_group(place: Place) -> None:
    pair = dist.new_group([0, 1])
    if place.rank < 2:
        model = DDP(fresh(seed=place.rank), process_group=pair)
        half = [(x[place.rank :: 2], y[place.rank :: 2]) for x, y in batches(STEPS)]
        same(train(model, half), train(fresh(seed=0), batches(STEPS)))
        dist.destroy_process_group(pair)


def check_models_that_differ_are_refused(place: Place) -> None:
    """Counts of parameters are gathered, and everybody sees that they differ."""
    with pytest.raises(RuntimeError, match="expects same model across all ranks"):
        DDP(nn.Linear(WIDTH, CLASSES, bias=place.rank != 1))
    dist.barrier()


def check_saved_and_loaded_models(place: Place) -> None:
    """A pickled DDP comes back in the default group; a deep copy trains on by itself."""
    steps = batches(STEPS)
    model = train(DDP(fresh()), _mine(place, steps[:2]))
    stream = io.BytesIO()
    torch.save(model, stream)
    stream.seek(0)
    for again in (torch.load(stream, weights_only=False), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        same(train(again, _mine(place, steps[2:])), train(train(fresh(), steps[:2]), steps[2:]))
