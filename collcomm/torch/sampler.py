"""Divides the data among whoever is there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..types import View
from .elasticgroup import ElasticProcessGroup


class ViewSampler(torch.utils.data.Sampler):
    """Batches of indices for this rank: each draw divides the next ``batch_size`` times size items among the members of the view.

    All members draw together, once a step. What a member had drawn that was lost before the next draw comes back first, so that
    every item is seen once an epoch (twice, where a member dies after its contribution has counted). Serves as
    ``batch_sampler`` of a DataLoader without workers: these draw ahead, and would divide by a view that is past. Share it, so
    that newcomers know where the others are.

    :param length: items of the data set; or the data set.
    :param shuffle: in another order each epoch, which depends on ``seed`` and the epoch's number only.
    """

    def __init__(
        self, group: ElasticProcessGroup, length: Any, batch_size: int, shuffle: bool = True, seed: int = 0
    ) -> None:
        self._group = group
        self._length = length if isinstance(length, int) else len(length)
        if self._length < 1 or batch_size < 1:
            raise ValueError(f"there must be items and room for one in a batch, not {self._length} and {batch_size}")
        self._batch = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self.epoch = 0
        self._position = 0  # in the epoch's order
        self._returned: list[int] = []
        self._drawn: dict[int, list[int]] = {}  # by member, of the last draw

    def draw(self) -> list[int]:
        """This rank's next batch. An epoch ends with a smaller one; each rank gets an item at least."""
        view: View = self._group.comm.view
        for member, items in self._drawn.items():
            if view.rank_of(member) is None:
                self._returned += items
        if self._position >= self._length and not self._returned:
            self.epoch += 1
            self._position = 0
        wanted = view.size * self._batch
        items, self._returned = self._returned[:wanted], self._returned[wanted:]
        fresh = self._order()[self._position : self._position + wanted - len(items)]
        self._position += len(fresh)
        items += fresh
        items += [items[number % len(items)] for number in range(-len(items) % view.size)]
        share = len(items) // view.size
        self._drawn = {member: items[rank * share : (rank + 1) * share] for rank, member in enumerate(view.ids)}
        return self._drawn[view.ids[self._group.comm.rank]]

    def __iter__(self) -> Iterator[list[int]]:
        """The batches of the rest of the epoch."""
        epoch = self.epoch
        while self.epoch == epoch and (self._position < self._length or self._returned or self._lost()):
            yield self.draw()

    def _lost(self) -> bool:
        view = self._group.comm.view
        return any(items and view.rank_of(member) is None for member, items in self._drawn.items())

    def _order(self) -> list[int]:
        if not self._shuffle:
            return list(range(self._length))
        order: list[int] = np.random.default_rng([self._seed, self.epoch]).permutation(self._length).tolist()
        return order

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "position": self._position,
            "returned": list(self._returned),
            "drawn": [[member, list(items)] for member, items in self._drawn.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self._position = int(state["epoch"]), int(state["position"])
        self._returned = [int(item) for item in state["returned"]]
        self._drawn = {int(member): [int(item) for item in items] for member, items in state["drawn"]}
