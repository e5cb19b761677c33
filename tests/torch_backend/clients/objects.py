"""Python objects through a group, sub-groups of many forms, and collectives within them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tests.torch_backend.clients.place import Place


def _thing(rank: int) -> dict[str, Any]:
    """Other sizes at other ranks."""
    return {"rank": rank, "text": "x" * (100 * rank), "tensor": torch.full((rank + 1,), float(rank))}


def _is(thing: Any, rank: int) -> None:
    assert thing["rank"] == rank and len(thing["text"]) == 100 * rank
    assert torch.equal(thing["tensor"], _thing(rank)["tensor"])


def check_objects_of_all(place: Place) -> None:
    box: list[Any] = [None] * place.size
    dist.all_gather_object(box, _thing(place.rank))
    for rank, thing in enumerate(box):
        _is(thing, rank)


def check_objects_from_a_root(place: Place) -> None:
    for root in range(place.size):
        things: list[Any] = [_thing(root), ("more", root), None] if place.rank == root else [None] * 3
        dist.broadcast_object_list(things, src=root)
        _is(things[0], root)
        assert things[1:] == [("more", root), None]
        box: list[Any] = [None]
        dist.scatter_object_list(
            box, [_thing(rank) for rank in range(place.size)] if place.rank == root else None, src=root
        )
        _is(box[0], place.rank)


def check_objects_to_a_root(place: Place) -> None:
    for root in range(place.size):
        box: list[Any] | None = [None] * place.size if place.rank == root else None
        dist.gather_object(_thing(place.rank), box, dst=root)
        for rank, thing in enumerate(box or []):
            _is(thing, rank)


def check_objects_from_one_to_another(place: Place) -> None:
    if place.rank == 0:
        dist.send_object_list([_thing(1), "and more"], dst=place.size - 1)
    elif place.rank == place.size - 1:
        things: list[Any] = [None, None]
        assert dist.recv_object_list(things, src=0) == 0
        _is(things[0], 1)
        assert things[1] == "and more"


def check_groups_of_some(place: Place) -> None:
    """Every subset of the ranks; who is not in it gets no group."""
    for mask in range(1, 1 << place.size):
        members = [rank for rank in range(place.size) if mask >> rank & 1]
        group = dist.new_group(members)
        assert (group is dist.GroupMember.NON_GROUP_MEMBER) == (place.rank not in members)
        if place.rank not in members:
            continue
        assert dist.get_world_size(group) == len(members) and dist.get_rank(group) == members.index(place.rank)
        assert dist.get_process_group_ranks(group) == members and dist.get_global_rank(group, 0) == members[0]
        total = torch.tensor([place.rank + 1])
        dist.all_reduce(total, group=group)
        assert total.item() == sum(members) + len(members)
        value = torch.tensor([place.rank])
        dist.broadcast(value, src=members[-1], group=group)
        assert value.item() == members[-1]
        box: list[Any] = [None] * len(members)
        dist.all_gather_object(box, place.rank, group=group)
        assert box == members
        dist.barrier(group)
        dist.destroy_process_group(group)


def check_ranks_within_a_group(place: Place) -> None:
    """Roots and peers named by their rank in the group, which lies backwards in the whole."""
    group = dist.new_group([1, 0])
    if place.rank < 2:
        mine = dist.get_rank(group)
        value = torch.tensor([mine])
        dist.broadcast(value, group_src=1, group=group)
        assert value.item() == 1
        things: list[Any] = [mine]
        dist.broadcast_object_list(things, group_src=0, group=group)
        assert things == [0]
        got = torch.empty(1, dtype=torch.int64)
        works = [
            dist.isend(torch.tensor([mine]), group=group, group_dst=1 - mine),
            dist.irecv(got, group=group, group_src=1 - mine),
        ]
        for work in works:
            assert work is not None
            work.wait()
        assert got.item() == 1 - mine
        parts = [torch.empty(1, dtype=torch.int64) for _ in range(2)] if mine == 1 else None
        dist.gather(torch.tensor([mine]), parts, group=group, group_dst=1)
        assert parts is None or [part.item() for part in parts] == [0, 1]
        dist.destroy_process_group(group)


def check_groups_by_size(place: Place) -> None:
    """Each alone, all together, and two at a time where that divides."""
    for size in {1, place.size, 2 if place.size % 2 == 0 else 1}:
        mine, groups = dist.new_subgroups(group_size=size)
        assert len(groups) == place.size // size
        total = torch.tensor([place.rank])
        dist.all_reduce(total, group=mine)
        first = place.rank // size * size
        assert total.item() == sum(range(first, first + size))
    mine, _ = dist.new_subgroups_by_enumeration([list(range(1, place.size)), [0]])
    total = torch.tensor([1])
    dist.all_reduce(total, group=mine)
    assert total.item() == (1 if place.rank == 0 else place.size - 1)


def check_only_members_make_a_group(place: Place) -> None:
    """With `use_local_synchronization` the others need not call."""
    if place.rank < 2:
        group = dist.new_group([0, 1], use_local_synchronization=True, timeout=timedelta(seconds=10))
        total = torch.tensor([1])
        dist.all_reduce(total, group=group)
        assert total.item() == 2
        dist.destroy_process_group(group)
    dist.barrier()


def check_many_groups_in_flight(place: Place) -> None:
    """Operations of several groups and of the whole one, asynchronous and awaited backwards."""
    groups = [dist.new_group() for _ in range(4)]
    tensors = [torch.full((1000,), float(index + place.rank)) for index in range(4)]
    works = [dist.all_reduce(tensor, group=group, async_op=True) for tensor, group in zip(tensors, groups, strict=True)]
    total = torch.ones(1)
    dist.all_reduce(total)
    for work in reversed(works):
        work.wait()
        assert work.is_completed()
    for index, tensor in enumerate(tensors):
        assert tensor.tolist() == [float(place.size * index + sum(range(place.size)))] * 1000
    assert total.item() == place.size
    for group in groups:
        dist.destroy_process_group(group)


def check_a_call_behind_pending_ones(place: Place) -> None:
    """Synchronous, in the same group: it waits for its turn."""
    for _ in range(10):
        first, second, third = torch.ones(1), torch.full((1,), 2.0), torch.full((1,), float(place.rank))
        works = [dist.all_reduce(first, async_op=True), dist.broadcast(third, src=1, async_op=True)]
        dist.all_reduce(second)
        for work in works:
            work.wait()
        assert (first.item(), second.item(), third.item()) == (place.size, 2 * place.size, 1)


def check_rooted_collectives(place: Place) -> None:
    for root in range(place.size):
        mine = torch.tensor([place.rank, 1])
        dist.reduce(total := mine.clone(), dst=root)
        assert place.rank != root or total.tolist() == [sum(range(place.size)), place.size]
        parts = [torch.empty_like(mine) for _ in range(place.size)] if place.rank == root else None
        dist.gather(mine, parts, dst=root)
        assert parts is None or [part.tolist() for part in parts] == [[rank, 1] for rank in range(place.size)]
        got = torch.empty_like(mine)
        given = [torch.tensor([rank, root]) for rank in range(place.size)] if place.rank == root else None
        dist.scatter(got, given, src=root)
        assert got.tolist() == [place.rank, root]


def check_coalescing(place: Place) -> None:
    """Several calls of one kind become one; done when the manager ends."""
    tensors = [torch.full((length,), float(place.rank)) for length in (3, 1, 7)]
    with dist.distributed_c10d._coalescing_manager():
        for tensor in tensors:
            dist.all_reduce(tensor)
    assert all(tensor.tolist() == [float(sum(range(place.size)))] * len(tensor) for tensor in tensors)
    with dist.distributed_c10d._coalescing_manager(async_ops=True) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    manager.wait()
    dist.all_reduce(total := torch.ones(1))
    assert total.item() == place.size
