"""Ways to join, to leave, and to join again in one process; and copies of what holds a group."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor

from collcomm.bench.launch import free_port
from tests.torch_backend.clients.place import PATIENCE, Place, join

HOST = "127.0.0.1"
_LEAVINGS = itertools.count()


def _works(place: Place) -> None:
    assert dist.is_initialized() and dist.get_rank() == place.rank and dist.get_world_size() == place.size
    assert place.backend in dist.get_backend()
    total = torch.tensor([place.rank + 1.0])
    dist.all_reduce(total)
    assert total.item() == sum(range(place.size)) + place.size


def _meeting(place: Place, name: str) -> dist.Store:
    """A store in a file: for what ranks have to tell each other while they are no group."""
    return dist.FileStore(str(place.folder / f"meeting-{name}"), place.size)


def _leave(place: Place) -> None:
    """Returns when all have left: who joins earlier may find rank 0's old store at the same address."""
    dist.destroy_process_group()
    assert not dist.is_initialized()
    store = _meeting(place, f"left-{next(_LEAVINGS)}")
    store.set(str(place.rank), "left")
    store.wait([str(rank) for rank in range(place.size)], PATIENCE)


def _common_port(place: Place, name: str) -> int:
    store = _meeting(place, name)
    if place.rank == 0:
        store.set("port", str(free_port(HOST)))
    return int(store.get("port"))


def check_environment(place: Place) -> None:
    join(place)
    _works(place)
    _leave(place)


def _a_second_group(place: Place) -> None:
    other = dist.new_group()
    value = torch.ones(2)
    dist.all_reduce(value, group=other)
    assert value.tolist() == [float(place.size)] * 2
    dist.barrier()


def check_again_and_again(place: Place) -> None:
    """With the same variables: whatever of a group outlives its end keeps the old store at the address."""
    for _ in range(3):
        join(place)
        _works(place)
        _a_second_group(place)
        _leave(place)


def check_tcp_address(place: Place) -> None:
    address = f"tcp://{HOST}:{_common_port(place, 'address')}"
    dist.init_process_group(
        place.backend, init_method=address, rank=place.rank, world_size=place.size, timeout=PATIENCE
    )
    _works(place)
    _leave(place)


def check_file(place: Place) -> None:
    for round_ in range(2):
        where = f"file://{place.folder}/rendezvous-{round_}"
        dist.init_process_group(
            place.backend, init_method=where, rank=place.rank, world_size=place.size, timeout=PATIENCE
        )
        _works(place)
        _leave(place)


def _join_at(place: Place, store: dist.Store) -> None:
    dist.init_process_group(place.backend, store=store, rank=place.rank, world_size=place.size, timeout=PATIENCE)
    _works(place)
    dist.barrier()
    _leave(place)


def check_stores(place: Place) -> None:
    """TCP with both of its servers, a file, and a part of a store that others use, too; each for two groups in turn."""
    for libuv in (True, False):
        port = _common_port(place, f"libuv-{libuv}")
        served = dist.TCPStore(HOST, port, place.size, place.rank == 0, timeout=PATIENCE, use_libuv=libuv)
        _join_at(place, served)
        _join_at(place, dist.PrefixStore("second", served))
    _join_at(place, _meeting(place, "store"))
    _join_at(place, dist.PrefixStore("a/b", _meeting(place, "prefix")))


def check_alone(place: Place) -> None:
    """A group of one, with a store that no other process sees."""
    dist.init_process_group(place.backend, store=dist.HashStore(), rank=0, world_size=1, timeout=PATIENCE)
    value = torch.tensor([4.0])
    dist.all_reduce(value)
    gathered = [torch.empty(1)]
    dist.all_gather(gathered, value)
    assert value.item() == gathered[0].item() == 4
    dist.barrier()
    _leave(place)


def _in_a_pair(place: Place) -> None:
    pair = dist.new_group([0, 1], backend=place.backend)
    if place.rank < 2:
        assert dist.get_backend(pair) == place.backend
        value = torch.ones(1)
        dist.all_reduce(value, group=pair)
        assert value.item() == 2


def check_backend_by_device(place: Place) -> None:
    dist.init_process_group(f"cpu:{place.backend}", timeout=PATIENCE)
    _works(place)
    assert dist.get_backend_config() == f"cpu:{place.backend}"
    _in_a_pair(place)
    _leave(place)


def _in_both(place: Place, whole: str, part: str) -> None:
    dist.init_process_group(whole, timeout=PATIENCE)
    for group in (None, dist.new_group(backend=part)):
        value = torch.ones(1)
        dist.all_reduce(value, group=group)
        assert value.item() == place.size


def check_groups_beside_another_backend(place: Place) -> None:
    """The whole on Gloo, a sub-group on the backend under test, and the other way round."""
    for whole, part in (("gloo", place.backend), (place.backend, "gloo")):
        _in_both(place, whole, part)
        _leave(place)


def check_use_after_the_end(place: Place) -> None:
    """An error that says so; the next group works."""
    join(place)
    _leave(place)
    with pytest.raises(ValueError, match="has not been initialized"):
        dist.all_reduce(torch.ones(1))
    join(place)
    _works(place)
    _leave(place)


def _groups_that_end(place: Place) -> None:
    for group in [dist.new_group(), dist.new_group([0]), dist.new_group([1])]:
        if group is not dist.GroupMember.NON_GROUP_MEMBER:
            dist.destroy_process_group(group)


def check_the_whole_ends_after_its_parts(place: Place) -> None:
    join(place)
    _groups_that_end(place)
    _works(place)
    dist.barrier(dist.new_group())
    _leave(place)


def check_copies_of_what_holds_a_group(place: Place) -> None:
    """Layers of DTensors hold a mesh, and the mesh its groups; a group itself can be copied with no backend of C++."""
    store = _meeting(
        place, "copies"
    )  # caches of DTensor keep the mesh, and it the store: not the one at the common address
    dist.init_process_group(place.backend, store=store, rank=place.rank, world_size=place.size, timeout=PATIENCE)
    mesh = init_device_mesh("cpu", (place.size,))
    torch.manual_seed(0)
    layer = distribute_module(nn.Linear(3, 12), mesh, _in_rows)
    expected = _output(layer)
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(stream, weights_only=False)):
        assert again.weight is not layer.weight and again.weight.placements == (Shard(0),)
        assert torch.equal(_output(again), expected)
    _leave(place)


def _in_rows(name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    for key, parameter in list(module.named_parameters()):
        module.register_parameter(key, nn.Parameter(distribute_tensor(parameter, mesh, [Shard(0)])))


def _output(layer: nn.Module) -> torch.Tensor:
    y = layer(distribute_tensor(torch.ones(2, 3), layer.get_parameter("weight").device_mesh, [Replicate()]))
    whole: torch.Tensor = y.full_tensor()
    return whole


def check_nothing_stays_open(place: Place) -> None:
    """Ten groups in turn take no descriptors along."""

    def opened() -> int:
        gc.collect()
        return len(list(Path("/proc/self/fd").iterdir()))

    counts = []
    for _ in range(10):
        join(place)
        dist.barrier(dist.new_group())
        _leave(place)
        counts.append(opened())
    assert min(counts[5:]) <= min(counts[:5]) + 4, counts  # some are closed by threads that end a little later
