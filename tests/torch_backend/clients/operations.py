"""Every operation of a process group, with what Gloo does not take: all dtypes, all operators, tensors that are empty or have
strides, uneven blocks; and what is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist

import collcomm
from tests.torch_backend.clients.place import Place

Op = dist.ReduceOp
WHOLE = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]
MOVED = [*WHOLE, *FLOATS, *COMPLEX, *FP8, torch.bool, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
SIZES = [0, 1, 7, 5000, 200_000]  # nothing, in one message, in the caller's thread, through blocks


def _values(rank: int, count: int, dtype: Any) -> Any:
    """Small whole numbers, so that sums are exact in any dtype."""
    return ((torch.arange(count) + rank) % 3).to(torch.float32).to(dtype)


def _same(found: Any, expected: Any) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape, (found, expected)
    assert torch.equal(found.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8)), (found, expected)


def _refused(call: Callable[[], Any], kind: type[BaseException], words: str) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        call()


def check_sums_of_all_dtypes(place: Place) -> None:
    for dtype in [*WHOLE, *FLOATS, *COMPLEX, *FP8]:
        for count in SIZES:
            x = _values(place.rank, count, dtype)
            dist.all_reduce(x)
            wide = sum(_values(rank, count, torch.float32) for rank in range(place.size))
            _same(x, torch.as_tensor(wide).to(dtype))


def check_all_operators(place: Place) -> None:
    parts = [_values(rank, 1000, torch.int64) + 1 for rank in range(place.size)]
    stack = torch.stack(parts)
    results = {
        Op.SUM: stack.sum(0),
        Op.PRODUCT: stack.prod(0),
        Op.MIN: stack.min(0)[0],
        Op.MAX: stack.max(0)[0],
        Op.AVG: stack.sum(0) // place.size,
    }
    for op, expected in results.items():
        for dtype in (torch.int32, torch.float32, torch.bfloat16, torch.float16, torch.float64):
            x = parts[place.rank].to(dtype)
            dist.all_reduce(x, op=op)
            exact = stack.to(torch.float64).mean(0) if op == Op.AVG and dtype.is_floating_point else expected
            assert torch.allclose(x.double(), exact.double(), rtol=1e-2 if dtype.itemsize == 2 else 1e-6), (op, dtype)
    for op, combine in ((Op.BAND, torch.bitwise_and), (Op.BOR, torch.bitwise_or), (Op.BXOR, torch.bitwise_xor)):
        x, expected = parts[place.rank].clone(), parts[0]
        for part in parts[1:]:
            expected = combine(expected, part)
        dist.all_reduce(x, op=op)
        _same(x, expected)
    flag = torch.tensor([place.rank == 0, True, False])
    dist.all_reduce(flag, op=Op.MAX)
    assert flag.tolist() == [True, True, False]


def check_sums_of_multiples(place: Place) -> None:
    for factor in (0.5, torch.tensor([2.0])):
        x = torch.full((100,), float(place.rank + 1))
        dist.all_reduce(x, op=dist._make_nccl_premul_sum(factor))
        total = place.size * (place.size + 1) / 2
        assert torch.equal(x, torch.full((100,), total * float(factor)))
        out = torch.zeros(3)
        dist.reduce_scatter_tensor(out, torch.ones(3 * place.size), op=dist._make_nccl_premul_sum(factor))
        assert torch.equal(out, torch.full((3,), place.size * float(factor)))


def check_all_dtypes_are_moved(place: Place) -> None:
    for dtype in MOVED:
        for count in (0, 5, 30_000):
            parts = [_values(rank, count, dtype) for rank in range(place.size)]
            boxes = [torch.zeros(count).to(dtype) for _ in parts]
            dist.all_gather(boxes, parts[place.rank])
            for box, part in zip(boxes, parts, strict=True):
                _same(box, part)
            x = parts[place.rank].clone()
            dist.broadcast(x, src=1)
            _same(x, parts[1])
    x = torch.complex(torch.ones(4), torch.ones(4)).conj() * (place.rank + 1)
    dist.broadcast(x, src=1)
    _same(x.resolve_conj(), torch.complex(torch.ones(4), -torch.ones(4)) * 2)


def check_tensors_with_strides(place: Place) -> None:
    n, rank = place.size, place.rank
    table = torch.zeros(6, 8)
    column = table[:, 2]
    column += rank + 1
    dist.all_reduce(column)
    assert torch.equal(table[:, 2], torch.full((6,), n * (n + 1) / 2)) and not table[:, 3].any()
    image = torch.full((2, 3, 4, 4), float(rank)).to(memory_format=torch.channels_last)
    dist.broadcast(image, src=1)
    assert (image == 1).all()
    boxes = [torch.zeros(4, 3).t() for _ in range(n)]
    dist.all_gather(boxes, torch.full((3, 4), float(rank)))
    assert all((box == r).all() for r, box in enumerate(boxes))
    work = dist.irecv(table[:, 5], src=(rank - 1) % n)
    dist.send(torch.full((6,), float(rank)), dst=(rank + 1) % n)
    work.wait()
    assert (table[:, 5] == (rank - 1) % n).all()


def check_blocks_of_different_sizes(place: Place) -> None:
    n, rank = place.size, place.rank
    boxes = [torch.zeros(r + 1, 2) for r in range(n)]
    dist.all_gather(boxes, torch.full((rank + 1, 2), float(rank)))
    assert all((box == r).all() for r, box in enumerate(boxes))
    out = torch.zeros(rank + 1)
    dist.reduce_scatter(out, [torch.full((r + 1,), float(r)) for r in range(n)])
    assert torch.equal(out, torch.full((rank + 1,), float(n * rank)))
    ins = [torch.full((rank + other,), float(rank)) for other in range(n)]
    outs = [torch.zeros(rank + other) for other in range(n)]
    dist.all_to_all(outs, ins)
    assert all((out == other).all() for other, out in enumerate(outs))
    sends, receives = [rank + other for other in range(n)], [rank + other for other in range(n)]
    out = torch.zeros(sum(receives), 2)
    dist.all_to_all_single(out, torch.full((sum(sends), 2), float(rank)), receives, sends)
    assert torch.equal(out[:, 0], torch.repeat_interleave(torch.arange(n).float(), torch.tensor(receives)))


def check_gathering_and_scattering(place: Place) -> None:
    n, rank = place.size, place.rank
    for root in range(n):
        boxes = [torch.zeros(3) for _ in range(n)] if rank == root else None
        dist.gather(torch.full((3,), float(rank)), boxes, dst=root)
        assert all((box == r).all() for r, box in enumerate(boxes or []))
        part = torch.zeros(3)
        dist.scatter(part, [torch.full((3,), float(r)) for r in range(n)] if rank == root else None, src=root)
        assert (part == rank).all()
        x = torch.full((70_000,), float(rank + 1))
        dist.reduce(x, dst=root, op=Op.AVG)
        if rank == root:
            assert (x == (n + 1) / 2).all()


def check_a_row_of_tensors_in_one_call(place: Place) -> None:
    n, rank = place.size, place.rank
    xs = [torch.full((size,), float(rank + 1)) for size in (3, 100_000, 1, 0, 20)]
    with dist._coalescing_manager(async_ops=True) as manager:
        for x in xs:
            dist.all_reduce(x)
    manager.wait()
    assert all((x == n * (n + 1) / 2).all() for x in xs)
    with dist._coalescing_manager(device=torch.device("cpu"), async_ops=True) as manager:
        dist.isend(torch.full((4,), float(rank)), (rank + 1) % n)
        box = torch.zeros(4)
        dist.irecv(box, (rank - 1) % n)
    manager.wait()
    assert (box == (rank - 1) % n).all()
    outs = [torch.zeros(2 * n), torch.zeros(3 * n)]
    ins = [torch.full((2,), float(rank)), torch.full((3,), float(rank))]
    with dist._coalescing_manager():
        for out, x in zip(outs, ins, strict=True):
            dist.all_gather_into_tensor(out, x)
    assert all(torch.equal(o, torch.repeat_interleave(torch.arange(n).float(), o.numel() // n)) for o in outs)


def check_many_in_flight(place: Place) -> None:
    xs = [torch.full((1000 * k + 1,), float(place.rank + k)) for k in range(40)]
    works = [dist.all_reduce(x, async_op=True) for x in xs]
    futures = [work.get_future() for work in works]
    chained = [future.then(lambda done: done.value()[0].sum().item()) for future in futures]
    for k, (x, work, found) in enumerate(zip(xs, works, chained, strict=True)):
        work.wait()
        assert work.is_completed() and work.is_success() and work.exception() is None
        expected = sum(rank + k for rank in range(place.size))
        assert (x == expected).all() and found.wait() == expected * x.numel() and work.result()[0] is x


def check_a_future_in_a_callback_of_another(place: Place) -> None:
    """PowerSGD's hook waits for a second collective in a callback of the first."""

    def second(first: Any) -> Any:
        x = first.value()[0].clone()
        return dist.all_reduce(x, async_op=True).get_future().wait()[0]

    found = dist.all_reduce(torch.ones(10), async_op=True).get_future().then(second).wait()
    assert (found == place.size**2).all()


def check_messages_from_anybody(place: Place) -> None:
    if place.rank == 0:
        box = torch.zeros(1)
        senders = [dist.recv(box) for _ in range(2 * (place.size - 1))]
        assert sorted(senders) == sorted([*range(1, place.size)] * 2)
    else:
        for _ in range(2):
            dist.send(torch.full((1,), float(place.rank)), 0)


def check_a_message_is_read_after_its_sender_has_left(place: Place) -> None:
    group = dist.new_group(list(range(place.size)))
    if place.rank == 1:
        dist.send(torch.full((100,), 5.0), 0, group=group)
        dist.destroy_process_group(group)
    if place.rank == 0:
        box = torch.zeros(100)
        dist.recv(box, 1, group=group)
        assert (box == 5).all()
    dist.barrier()


def check_who_calls_something_else_is_named(place: Place) -> None:
    x = torch.ones(3 if place.rank == 1 else 4)
    _refused(lambda: dist.all_reduce(x), collcomm.CollectiveMismatch, "rank-1")
    _refused(lambda: dist.all_reduce(x, async_op=True).wait(), RuntimeError, "rank-1")
    dist.barrier()  # the group goes on


def check_who_does_not_come_is_named(place: Place) -> None:
    group = dist.new_group(list(range(place.size)), timeout=timedelta(seconds=1))
    if place.rank != 1:
        _refused(lambda: dist.all_reduce(torch.ones(1), group=group), collcomm.CollectiveTimeout, "rank-1")
    dist.barrier()
    if place.rank == 1:
        _refused(lambda: dist.all_reduce(torch.ones(1), group=group), collcomm.CollectiveTimeout, "rank-1")
    if place.rank == 0:
        work = dist.irecv(torch.zeros(1), 1)
        _refused(lambda: work.wait(timedelta(seconds=0.1)), RuntimeError, "has not finished within 0.1 s")
        dist.barrier()
        work.wait()
    else:
        dist.barrier()
        if place.rank == 1:
            dist.send(torch.zeros(1), 0)


def check_what_cannot_be_done_is_said(place: Place) -> None:
    group = dist.group.WORLD
    _refused(
        lambda: dist.all_reduce(torch.zeros(3).to(torch.float8_e4m3fnuz)), TypeError, "can be sent and not reduced"
    )
    _refused(lambda: dist.all_reduce(torch.zeros(3), op=Op.BAND), TypeError, "integers or bool")
    uneven = torch.zeros(place.size + 1)
    _refused(lambda: dist.all_to_all_single(uneven.clone(), uneven), ValueError, "split sizes")
    _refused(lambda: group.reduce([torch.zeros(1)], op=Op.SUM, opts=99).wait(), ValueError, "root must be a rank")
    assert group.size() == place.size and dist.get_backend() == "collcomm"


def check_parts_of_a_group(place: Place) -> None:
    group = dist.group.WORLD
    turned = list(range(place.size))[::-1]
    part = group.split_group(turned, group_name="turned")
    assert part.rank() == place.size - 1 - place.rank and part.group_name == "turned"
    boxes = [torch.zeros(1) for _ in turned]
    part.allgather([boxes], [torch.full((1,), float(part.rank()))]).wait()
    assert [int(box) for box in boxes] == list(range(place.size))
    some = group.split_group([0, 1])
    assert (some is None) == (place.rank > 1)
    if some is not None:
        x = torch.ones(2)
        some.allreduce(x).wait()
        assert (x == 2).all()
        some.abort()
        some.abort()
        _refused(lambda: some.allreduce(x), collcomm.CommunicatorClosed, "destroyed")
    part.shutdown()
    part.shutdown()


def check_sparse_tensors(place: Place) -> None:
    def mine() -> Any:
        indices = torch.tensor([[place.rank, place.size]])
        return torch.sparse_coo_tensor(indices, torch.tensor([[2.0, 4.0], [1.0, 1.0]]), (place.size + 1, 2))

    for op, divisor in ((Op.SUM, 1), (Op.AVG, place.size)):
        x = mine()
        dist.all_reduce(x, op=op)
        expected = torch.tensor([[2.0, 4.0]] * place.size + [[float(place.size)] * 2]) / divisor
        assert torch.allclose(x.to_dense(), expected), x.to_dense()
    _refused(lambda: dist.all_reduce(mine(), op=Op.MAX), ValueError, "summed and averaged")


def check_who_was_late_to_a_monitored_barrier_does_not_pass_for_the_next(place: Place) -> None:
    group = dist.new_group(list(range(place.size)))
    meet = dist.new_group(list(range(place.size)))
    short = timedelta(seconds=0.5)
    if place.rank == 1:
        dist.barrier(group=meet)  # by then the others have given up
        _refused(lambda: group.monitored_barrier(short), RuntimeError, "Rank 1 successfully reached")
    else:
        _refused(lambda: group.monitored_barrier(short), RuntimeError, "monitoredBarrier")
        dist.barrier(group=meet)
    dist.barrier(group=meet)
    if place.rank != 1:
        _refused(lambda: group.monitored_barrier(short), RuntimeError, "monitoredBarrier")
    dist.barrier(group=meet)


def check_a_group_ends_with_what_it_waits_for(place: Place) -> None:
    group = dist.new_group(list(range(place.size)))
    works = []
    if place.rank == 0:
        works = [dist.irecv(torch.zeros(1), 1, group=group), dist.irecv(torch.zeros(1), group=group)]
    if place.rank != 0:
        dist.barrier()
    began = time.monotonic()
    dist.destroy_process_group(group)
    assert time.monotonic() - began < 5
    if place.rank == 0:  # the first to close it
        dist.barrier()
    for work in works:
        _refused(work.wait, collcomm.CommunicatorClosed, "was closed")
