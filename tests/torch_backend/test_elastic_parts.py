"""What an elastic run is made of, without processes: the sampler over a view that shrinks, and the state that newcomers get."""

from __future__ import annotations

import io
import os
import pickle
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

import collcomm
from collcomm.torch import ViewSampler
from collcomm.torch.sharedstate import SharedState
from tests.support.peers import run_peers


def _sampler(comm: collcomm.Communicator, length: int, batch: int) -> ViewSampler:
    group: Any = SimpleNamespace(comm=comm)  # all that it looks at
    return ViewSampler(group, length, batch, seed=3)


def test_an_epoch_is_divided_among_the_members() -> None:
    def body(comm: collcomm.Communicator) -> list[list[int]]:
        return list(_sampler(comm, 100, 8))

    drawn = run_peers(3, body)
    assert [len(batch) for batch in drawn[0]] == [8, 8, 8, 8, 2]
    assert len({len(batches) for batches in drawn}) == 1
    seen = Counter(item for batches in drawn for batch in batches for item in batch)
    assert set(seen) == set(range(100))
    assert sum(seen.values()) == 102  # two more, so that all have equally many


def test_what_a_lost_member_had_drawn_comes_back() -> None:
    """Rank 2 leaves with a batch that it has not worked on."""

    def body(comm: collcomm.Communicator) -> list[int]:
        sampler, seen = _sampler(comm, 96, 4), []
        for turn, batch in enumerate(sampler):
            if comm.rank == 2 and comm.size == 3 and turn == 3:
                comm.leave()
                return seen
            comm.all_reduce(torch.ones(1))  # the step in which the others notice
            seen += batch
        return seen

    seen = Counter(item for items in run_peers(3, body) for item in items)
    assert set(seen) == set(range(96)) and max(seen.values()) == 1


def test_a_sampler_goes_on_where_another_was() -> None:
    def body(comm: collcomm.Communicator) -> None:
        one, other = _sampler(comm, 50, 4), _sampler(comm, 50, 4)
        for _ in range(20):
            one.draw()
        other.load_state_dict(one.state_dict())
        assert one.epoch == 1 and [one.draw() for _ in range(30)] == [other.draw() for _ in range(30)]

    run_peers(1, body)


def _parts(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, betas=(0.8, 0.9))
    return {"net": net, "optimizer": optimizer, "schedule": torch.optim.lr_scheduler.StepLR(optimizer, 3)}


def _train(parts: dict[str, Any]) -> None:
    parts["optimizer"].zero_grad()
    parts["net"](torch.arange(15.0).reshape(5, 3)).square().sum().backward()
    parts["optimizer"].step()
    parts["schedule"].step()


def test_a_newcomer_without_optimizer_state_goes_on_bit_by_bit() -> None:
    old, new = _parts(1), _parts(2)
    for _ in range(4):
        _train(old)
    donor, newcomer = SharedState(old), SharedState(new)
    newcomer.adopt(donor.encoded())
    for mine, theirs in zip(newcomer.lend(), donor.lend(), strict=True):
        mine.array[...] = theirs.array
        mine.give_back()
    newcomer.restore()
    for _ in range(3):
        _train(old)
        _train(new)
    for one, other in zip(old["net"].state_dict().values(), new["net"].state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert new["schedule"].get_last_lr() == old["schedule"].get_last_lr()


def test_other_parts_than_the_others_share_are_refused() -> None:
    old, new = _parts(1), _parts(2)
    del new["schedule"]
    newcomer = SharedState(new)
    newcomer.adopt(SharedState(old).encoded())
    with pytest.raises(ValueError, match="give share\\(\\) the same"):
        newcomer.restore()


class _Bad:
    def __reduce__(self) -> Any:
        return os.mkdir, ("collcomm-was-here",)


def test_nothing_that_a_peer_sends_is_run() -> None:
    buffer = io.BytesIO()
    torch.save({"net": _Bad()}, buffer)
    with pytest.raises(pickle.UnpicklingError):
        SharedState(_parts(1)).adopt(buffer.getvalue())
    assert not os.path.exists("collcomm-was-here")
