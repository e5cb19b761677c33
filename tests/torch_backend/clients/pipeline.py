"""Stages of a pipeline, one per rank or two, compute what one process computes; and the batched messages that they send."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, SplitPoint, pipeline
from torch.distributed.pipelining.schedules import (
    PipelineScheduleMulti,
    PipelineScheduleSingle,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
    ScheduleLoopedBFS,
)

from tests.torch_backend.clients.place import Place
from tests.torch_backend.clients.training import WIDTH, batches

MICROBATCHES = 6
CPU = torch.device("cpu")


def _layers(count: int) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        *(nn.Sequential(nn.Linear(WIDTH, WIDTH, dtype=torch.float64), nn.Tanh()) for _ in range(count))
    )


def _loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (output - target).square().mean()


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    x = batches(1)[0][0]
    return x, x.flip(0)


def _alone(count: int) -> tuple[nn.Sequential, torch.Tensor]:
    """Layers with gradients, and the output."""
    layers = _layers(count)
    x, target = _data()
    output = layers(x)
    _loss(output, target).backward()
    return layers, output.detach()


def _compare(mine: dict[int, nn.Module], output: torch.Tensor | None, losses: list[torch.Tensor], count: int) -> None:
    expected, whole = _alone(count)
    for index, layer in mine.items():
        for ours, theirs in zip(layer.parameters(), expected[index].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
    if output is not None:
        torch.testing.assert_close(output, whole)
        torch.testing.assert_close(torch.stack(losses).mean(), _loss(whole, _data()[1]))


def _step(
    schedule: PipelineScheduleSingle | PipelineScheduleMulti, first: bool, last: bool
) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
    x, target = _data()
    losses: list[torch.Tensor] = []
    output = schedule.step(*([x] if first else []), **({"target": target, "losses": losses} if last else {}))
    return (output.detach() if last else None), losses


def check_one_stage_each(place: Place) -> None:
    for kind in (ScheduleGPipe, Schedule1F1B):
        layer = _layers(place.size)[place.rank]
        stage = PipelineStage(layer, place.rank, place.size, CPU)
        schedule = kind(stage, MICROBATCHES, loss_fn=_loss)
        output, losses = _step(schedule, place.rank == 0, place.rank == place.size - 1)
        _compare({place.rank: layer}, output, losses, place.size)


def check_two_stages_each(place: Place) -> None:
    count = 2 * place.size
    for kind in (ScheduleInterleaved1F1B, ScheduleLoopedBFS):
        layers = {index: _layers(count)[index] for index in (place.rank, place.rank + place.size)}
        stages = [PipelineStage(layer, index, count, CPU) for index, layer in layers.items()]
        schedule = kind(stages, MICROBATCHES, loss_fn=_loss)  # type: ignore[arg-type]
        output, losses = _step(schedule, place.rank == 0, place.rank == place.size - 1)
        _compare(layers, output, losses, count)


def check_a_model_that_is_split(place: Place) -> None:
    """Traced and cut in pieces by torch, which numbers the layers of a piece as in the whole."""
    x, _ = _data()
    cuts = {str(index): SplitPoint.BEGINNING for index in range(1, place.size)}
    piped = pipeline(_layers(place.size), mb_args=(x.chunk(MICROBATCHES)[0],), split_spec=cuts)
    stage = piped.build_stage(place.rank, CPU)
    schedule = Schedule1F1B(stage, MICROBATCHES, loss_fn=_loss)
    output, losses = _step(schedule, place.rank == 0, place.rank == place.size - 1)
    _compare({place.rank: piped.get_stage_module(place.rank)}, output, losses, place.size)


def check_messages_in_a_batch(place: Place) -> None:
    """To both neighbours and from both, sizes differing by rank; also posted in the other order at odd ranks."""
    right, left = (place.rank + 1) % place.size, (place.rank - 1) % place.size
    to_right = torch.full((1000 * (place.rank + 1),), float(place.rank))
    to_left = torch.full((3, place.rank + 2), place.rank, dtype=torch.int64)
    from_left, from_right = torch.empty(1000 * (left + 1)), torch.empty(3, right + 2, dtype=torch.int64)
    operations = [dist.P2POp(dist.isend, to_right, right, tag=1), dist.P2POp(dist.irecv, from_left, left, tag=1)]
    operations += [dist.P2POp(dist.isend, to_left, left, tag=2), dist.P2POp(dist.irecv, from_right, right, tag=2)]
    for work in dist.batch_isend_irecv(operations[::-1] if place.rank % 2 else operations):
        work.wait()
    assert from_left.tolist() == [float(left)] * len(from_left)
    assert from_right.tolist() == [[right] * (right + 2)] * 3


def check_large_messages_cross(place: Place) -> None:
    """Larger than any buffer in between: neither may wait for the other's `recv`."""
    peer = place.rank ^ 1
    if peer < place.size:
        mine = torch.full((4 << 20,), float(place.rank))
        theirs = torch.empty_like(mine)
        works = [dist.isend(mine, peer), dist.irecv(theirs, peer)]
        for work in works:
            assert work is not None
            work.wait()
        assert theirs.min().item() == theirs.max().item() == peer


def check_tags_and_any_source(place: Place) -> None:
    """Rank 0 takes messages by tag, against their order; and from whoever comes."""
    if place.rank:
        works = [dist.isend(torch.tensor([10 * place.rank + tag]), 0, tag=tag) for tag in (1, 2)]
        for work in works:
            assert work is not None
            work.wait()
        dist.send(torch.tensor([place.rank]), 0, tag=3)
    else:
        for source in range(1, place.size):
            for tag in (2, 1):
                value = torch.empty(1, dtype=torch.int64)
                assert dist.recv(value, source, tag=tag) == source
                assert value.item() == 10 * source + tag
        seen = set()
        for _ in range(1, place.size):
            value = torch.empty(1, dtype=torch.int64)
            source = dist.recv(value, tag=3)
            assert value.item() == source
            seen.add(source)
        assert seen == set(range(1, place.size))


def check_messages_beside_collectives(place: Place) -> None:
    """A message that is awaited before a collective, and sent after it."""
    value = torch.empty(1)
    pending = dist.irecv(value, 1) if place.rank == 0 else None
    total = torch.ones(1)
    dist.all_reduce(total)
    if place.rank == 1:
        dist.send(torch.tensor([5.0]), 0)
    if pending is not None:
        pending.wait()
        assert value.item() == 5
    assert total.item() == place.size
