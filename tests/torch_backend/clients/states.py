"""Optimizer state in parts, and checkpoints that are saved by several ranks and loaded by other layouts."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.stateful import Stateful
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel as DDP

from tests.torch_backend.clients.place import Place
from tests.torch_backend.clients.training import Batch, batches, fresh, loss_of, same, train

warnings.filterwarnings("ignore", category=FutureWarning)
warnings.filterwarnings("ignore", category=UserWarning)
STEPS = 4


def _mine(place: Place, steps: list[Batch]) -> list[Batch]:
    return [(place.mine(x), place.mine(y)) for x, y in steps]


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


def _folder(place: Place, name: str) -> Path:
    return place.folder / name


def check_zero_redundancy_optimizer(place: Place) -> None:
    """Each rank steps its part of the parameters, and broadcasts them."""

    zero = partial(ZeroRedundancyOptimizer, optimizer_class=torch.optim.Adam, lr=0.01)
    for make in (zero, partial(zero, parameters_as_bucket_view=True)):
        same(train(DDP(fresh()), _mine(place, batches(STEPS)), make), train(fresh(), batches(STEPS), _adam))


def check_state_of_zero_redundancy(place: Place) -> None:
    """Collected at one rank, equal to the whole optimizer's; training goes on from it."""
    model = DDP(fresh())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.01)
    for batch in _mine(place, batches(2)):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    optimizer.consolidate_state_dict(to=0)
    box: list[Any] = [optimizer.state_dict() if place.rank == 0 else None]
    dist.broadcast_object_list(box, src=0)
    alone = fresh()
    expected = _adam(alone.parameters())
    for batch in batches(2):
        expected.zero_grad()
        loss_of(alone, batch).backward()
        expected.step()
    for index, moments in expected.state_dict()["state"].items():
        for name, value in moments.items():
            torch.testing.assert_close(torch.as_tensor(box[0]["state"][index][name]), torch.as_tensor(value))
    again = ZeroRedundancyOptimizer(model.parameters(), torch.optim.Adam, lr=0.01)
    again.load_state_dict(box[0])
    for batch in batches(2, seed=50):
        again.zero_grad()
        loss_of(model, (place.mine(batch[0]), place.mine(batch[1]))).backward()
        again.step()
        expected.zero_grad()
        loss_of(alone, batch).backward()
        expected.step()
    same(model, alone)


def _sharded(place: Place, seed: int) -> nn.Module:
    model = fresh(seed=seed)
    mesh = init_device_mesh("cpu", (place.size,))
    for layer in model.children():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def check_checkpoint_of_shards(place: Place) -> None:
    """Saved as shards of one kind, loaded as others, and by this process alone."""
    mesh = init_device_mesh("cpu", (place.size,))
    whole = torch.arange(35.0).reshape(7, 5)
    state = {"x": distribute_tensor(whole, mesh, [Shard(0)]), "lone": torch.tensor([3.0]), "step": 12}
    dcp.save(state, checkpoint_id=_folder(place, "shards"))
    for placement in (Shard(1), Replicate(), Shard(0)):
        again: dict[str, Any] = {
            "x": distribute_tensor(torch.zeros(7, 5), mesh, [placement]),
            "lone": torch.zeros(1),
            "step": 0,
        }
        dcp.load(again, checkpoint_id=_folder(place, "shards"))
        torch.testing.assert_close(again["x"].full_tensor(), whole)
        assert again["lone"].item() == 3 and again["step"] == 12
    alone = {"x": torch.zeros(7, 5)}
    dcp.load(alone, checkpoint_id=_folder(place, "shards"), no_dist=True)
    torch.testing.assert_close(alone["x"], whole)


class _Counter(Stateful):
    """What is no tensor takes part, too."""

    def __init__(self, value: int) -> None:
        self.value = value

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value = state_dict["value"]


def check_training_goes_on_from_a_checkpoint(place: Place) -> None:
    """FSDP2 and Adam, saved in the middle and loaded by a fresh model."""
    steps = batches(STEPS)
    model = _sharded(place, seed=3)
    optimizer = _adam(model.parameters())
    for batch in _mine(place, steps[:2]):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments, "counter": _Counter(2)}, checkpoint_id=_folder(place, "training"))

    again = _sharded(place, seed=99)
    optimizer = _adam(again.parameters())
    weights, moments = get_state_dict(again, optimizer)
    counter = _Counter(0)
    state = {"model": weights, "optimizer": moments, "counter": counter}
    dcp.load(state, checkpoint_id=_folder(place, "training"))
    set_state_dict(again, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])  # type: ignore[arg-type]
    assert counter.value == 2
    for batch in _mine(place, steps[2:]):
        optimizer.zero_grad()
        loss_of(again, batch).backward()
        optimizer.step()
    same(again, train(fresh(), steps, _adam))


def check_a_checkpoint_in_the_background(place: Place) -> None:
    """What is written after `async_save` has returned is not in it."""
    model = _sharded(place, seed=4)
    group = dist.new_group()  # its own: another thread calls its collectives
    where = _folder(place, "background")
    saved = dcp.async_save({"model": get_model_state_dict(model)}, checkpoint_id=where, process_group=group)
    total = torch.ones(1)
    dist.all_reduce(total)  # collectives of the program beside those of the checkpoint
    assert total.item() == place.size
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    saved.result()  # type: ignore[union-attr]
    again = _sharded(place, seed=99)
    state = {"model": get_model_state_dict(again)}
    dcp.load(state, checkpoint_id=where)
    set_model_state_dict(again, state["model"])
    same(again, fresh(seed=4))


def check_whole_states(place: Place) -> None:
    """Of a sharded model and its optimizer: collected at rank 0, and spread from there."""
    model = _sharded(place, seed=3)
    optimizer = _adam(model.parameters())
    loss_of(model, _mine(place, batches(1))[0]).backward()
    optimizer.step()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    moments = get_optimizer_state_dict(model, optimizer, options=options)
    assert bool(weights) == (place.rank == 0)
    if place.rank == 0:
        expected = train(fresh(), batches(1), _adam)
        for name, value in expected.state_dict().items():
            assert not isinstance(weights[name], DTensor)
            torch.testing.assert_close(weights[name], value)
    spread = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    again = _sharded(place, seed=99)
    other = _adam(again.parameters())
    set_model_state_dict(again, weights, options=spread)  # `set_state_dict` takes an empty dict for no model at all
    set_optimizer_state_dict(again, other, moments, options=spread)
    for batch in batches(STEPS)[1:]:
        other.zero_grad()
        loss_of(again, _mine(place, [batch])[0]).backward()
        other.step()
    same(again, train(fresh(), batches(STEPS), _adam))


def check_checkpoint_of_ddp(place: Place) -> None:
    """Replicas are saved once, and names have no prefix."""
    model = DDP(fresh(seed=8))
    dcp.save({"model": get_model_state_dict(model)}, checkpoint_id=_folder(place, "replicas"))
    plain = fresh(seed=1)
    state = {"model": plain.state_dict()}
    dcp.load(state, checkpoint_id=_folder(place, "replicas"), no_dist=True)
    plain.load_state_dict(state["model"])
    same(plain, fresh(seed=8))
