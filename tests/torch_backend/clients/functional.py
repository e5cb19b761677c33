"""Functional collectives, each with its closed-form answer."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol

from tests.torch_backend.clients.place import Place


def _equal(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(funcol.wait_tensor(got), expected, check_dtype=True)


def _row(rank: int, length: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """What a rank brings: known to all."""
    return torch.arange(length).add(10 * rank).to(dtype)


def _rows(place: Place, length: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.stack([_row(rank, length, dtype) for rank in range(place.size)])


def check_all_reduce(place: Place) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.int64, torch.uint8):
        rows = _rows(place, dtype=dtype)
        for op, expected in (("sum", rows.sum(0, dtype=dtype)), ("max", rows.amax(0)), ("min", rows.amin(0))):
            _equal(funcol.all_reduce(rows[place.rank], op, dist.group.WORLD), expected)
    rows = _rows(place, dtype=torch.float64)
    _equal(funcol.all_reduce(rows[place.rank], "product", dist.group.WORLD), rows.prod(0))
    _equal(funcol.all_reduce(rows[place.rank], "avg", dist.group.WORLD), rows.mean(0))
    _equal(funcol.all_reduce(rows[place.rank] + 1j, "sum", dist.group.WORLD), rows.sum(0) + 1j * place.size)


def check_all_gather(place: Place) -> None:
    table = _rows(place, 6).reshape(place.size, 2, 3)
    _equal(funcol.all_gather_tensor(table[place.rank], 0, dist.group.WORLD), table.flatten(0, 1))
    _equal(funcol.all_gather_tensor(table[place.rank], 1, dist.group.WORLD), torch.cat(list(table), dim=1))
    bits = torch.tensor([place.rank == 0, True])
    _equal(
        funcol.all_gather_tensor(bits, 0, dist.group.WORLD),
        torch.tensor([True, True] + [False, True] * (place.size - 1)),
    )


def check_reduce_scatter(place: Place) -> None:
    table = torch.arange(place.size * 6.0).reshape(place.size, 2, 3)
    for dimension in (0, 1):
        whole = torch.cat(list(table), dim=dimension)
        mine = table[place.rank]
        _equal(
            funcol.reduce_scatter_tensor(whole + place.rank, "sum", dimension, dist.group.WORLD),
            mine * place.size + sum(range(place.size)),
        )
    _equal(funcol.reduce_scatter_tensor(table.flatten(0, 1), "avg", 0, dist.group.WORLD), table[place.rank])


def check_all_to_all(place: Place) -> None:
    """Even parts, and rank r sends 1 + r + s rows to s."""
    n, me = place.size, place.rank
    _equal(
        funcol.all_to_all_single(torch.arange(n) + 100 * me, None, None, dist.group.WORLD),
        torch.tensor([100 * rank + me for rank in range(n)]),
    )
    counts = [1 + me + rank for rank in range(n)]
    sent = torch.cat([torch.full((count, 2), 10.0 * me + rank) for rank, count in enumerate(counts)])
    got = torch.cat([torch.full((count, 2), 10.0 * rank + me) for rank, count in enumerate(counts)])
    _equal(funcol.all_to_all_single(sent, counts, counts, dist.group.WORLD), got)
    towards_0 = [2] + [0] * (n - 1)  # nothing at all between most
    got = funcol.all_to_all_single(_row(me, 2), [2] * n if me == 0 else [0] * n, towards_0, dist.group.WORLD)
    _equal(got, _rows(place, 2).flatten() if me == 0 else torch.empty(0))


def check_broadcast_and_permutation(place: Place) -> None:
    for source in range(place.size):
        _equal(funcol.broadcast(_row(place.rank), source, dist.group.WORLD), _row(source))
    onwards = [(rank + 1) % place.size for rank in range(place.size)]
    _equal(funcol.permute_tensor(_row(place.rank), onwards, dist.group.WORLD), _row((place.rank - 1) % place.size))


def check_several_at_once(place: Place) -> None:
    """Coalesced: tensors of several shapes in one call."""
    inputs = [_row(place.rank, length) for length in (1, 5, 8)]
    for got, length in zip(funcol.all_reduce_coalesced(inputs, "sum", dist.group.WORLD), (1, 5, 8), strict=True):
        _equal(got, _rows(place, length).sum(0))
    for got, length in zip(funcol.all_gather_into_tensor_coalesced(inputs, dist.group.WORLD), (1, 5, 8), strict=True):
        _equal(got, _rows(place, length).flatten())
    parts = [_rows(place, length).flatten() for length in (2, 3)]
    scattered = funcol.reduce_scatter_tensor_coalesced(parts, "sum", [0, 0], dist.group.WORLD)
    for got, length in zip(scattered, (2, 3), strict=True):
        _equal(got, _row(place.rank, length) * place.size)


def check_inputs_stay_and_layouts_do_not_matter(place: Place) -> None:
    table = _rows(place, 6).reshape(place.size, 2, 3)
    turned = table[place.rank].t()
    before = turned.clone()
    _equal(funcol.all_reduce(turned, "sum", dist.group.WORLD), table.sum(0).t())
    assert torch.equal(turned, before)
    _equal(funcol.all_gather_tensor(turned, 0, dist.group.WORLD), torch.cat([part.t() for part in table]))


def check_sub_groups_and_lazy_waiting(place: Place) -> None:
    """Results are waited for when they are used; of several groups, and in another order than they were asked for."""
    pair = dist.new_group([0, 1])
    whole = funcol.all_reduce(_row(place.rank), "sum", dist.group.WORLD)
    if place.rank < 2:
        part = funcol.all_reduce(_row(place.rank), "sum", pair)
        torch.testing.assert_close(part + 1, _row(0) + _row(1) + 1)
    torch.testing.assert_close(whole * 2, 2 * _rows(place).sum(0))
    if place.rank < 2:
        dist.destroy_process_group(pair)
