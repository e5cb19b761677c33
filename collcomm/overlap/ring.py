"""Blocks that go round a ring of ranks while each rank computes on the one that it has: ring attention (Liu et al., 2024), both
ways at once, and TokenRing's way, in which partial results return straight to their owner (Wang et al., 2024).

    ring = comm.ring()
    for owner, block in ring.around(keys_and_values):           # one's own first; the next one comes meanwhile
        out.add(attention(queries, block))

    for helper, part in ring.visit(queries, attend):            # attend(owner, queries of owner), at each rank
        out.add(part)

There are two buffers each way: out of one a block is read, by the caller and for the next rank, while the next one comes into the
other. The ring goes in the order that the planner has for the links.

Wire bytes. Each of P ranks with blocks of n bytes sends (P - 1) n in P - 1 steps. Both ways they are as many, in P // 2 steps:
better where a step's latency counts, or neighbours are reached over links of their own. `visit` sends (P - 1) (n + m),
with m bytes of results for a block; the last result comes home when nobody computes any more.

Each step is an operation of the engine, which commits at all ranks or fails at all of them. Its frames bear the view and its
number: nothing of an exchange that ended early is taken for a part of the next one. Where a rank dies, all others leave the
exchange in the same step, with PeerLost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..arrays import HostArray
from ..engine import AnyGroup, AnySession
from ..engine.operation import Scratch
from .trip import Bytes, Parts, Trip


class RingExchange:
    """Made by `Communicator.ring`; for any number of exchanges, one after the other.

    Every rank begins them in the same order, and goes on to the end: who stops early fails the others by its next call, or by
    their time-out. What is yielded is to be read, and until the next turn only; copy what is to be kept. Errors: PeerLost, at
    all survivors, where a rank dies (look at ``comm.view``, and begin again with what is one's own), and those of collectives.
    """

    def __init__(self, session: AnySession, group: AnyGroup, both_ways: bool, seconds: float):
        self._session = session
        self._group = group
        self._both_ways = both_ways
        self._seconds = seconds
        self._room = Scratch()
        self._busy = False

    def around(self, block: Any) -> Iterator[tuple[int, Any]]:
        """Each rank and its block: this one's, then those of the ranks before it in the ring as they come, or, both ways, of
        those before and behind it in turn. ``block``: an array or a CPU tensor of any number of rows, which have the same
        shape and dtype at all ranks; not to be changed before the end of the second turn."""
        with self._exchange():
            way = "both ways" if self._both_ways else "one way"
            trip = Trip(self._session, self._group, block, way, self._seconds)
            steps = trip.size // 2 if self._both_ways else trip.size - 1
            before = behind = trip.own  # the blocks that have come from either side
            for step in range(steps + 1):
                present = {trip.rank(-step): before}
                if self._both_ways:
                    present.setdefault(trip.rank(step), behind)
                gives, takes = self._passed(trip, step, before, behind) if step < steps else ({}, {})
                moving = trip.move(f"step {step + 1} of {steps}", gives, takes)
                try:
                    for owner, data in present.items():
                        yield owner, trip.block(owner, data)
                finally:
                    moving.settle()
                moving.result()
                before, behind = takes.get(trip.rank(-1), before), takes.get(trip.rank(1), behind)

    def _passed(self, trip: Trip, step: int, before: Bytes, behind: Bytes) -> tuple[Parts, Parts]:
        """What the neighbours are given, and where what they give goes."""
        left, right = trip.rank(-1), trip.rank(1)
        first, second = trip.rank(-step - 1), trip.rank(step + 1)
        gives, takes = {right: before}, {left: self._take(f"before {step % 2}", trip.nbytes(first))}
        if self._both_ways and first != second:
            gives[left], takes[right] = behind, self._take(f"behind {step % 2}", trip.nbytes(second))
        return gives, takes

    def visit(self, block: Any, work: Callable[[int, Any], Any]) -> Iterator[tuple[int, Any]]:
        """Each rank, and what it made of ``block``: this one first, then those behind it in the ring, as results come home.

        ``work(owner, block)`` makes of the block of ``owner`` a new array, of the same shape and dtype at all ranks; it is
        called for the block of each rank, while the next block, and the result before, are on their way. ``block``: as in
        `around`. Where ``work`` raises, the others learn of it as of one who stops early.
        """
        with self._exchange():
            trip = Trip(self._session, self._group, block, "there and back", self._seconds)
            last, data = trip.size - 1, trip.own
            mine = made = HostArray(np.empty(0, np.uint8))
            home: tuple[int, Any] | None = None
            for step in range(last + 2):
                gives: dict[int, Bytes] = {}
                takes: dict[int, Bytes] = {}
                before, behind, helper = trip.rank(-1), trip.rank(1), trip.rank(step - 1)
                if step < last:
                    gives[behind] = data
                    takes[before] = self._take(f"before {step % 2}", trip.nbytes(trip.rank(-step - 1)))
                if step > 1:  # what was made in the step before
                    gives[trip.rank(1 - step)] = made.flat.view(np.uint8)
                    takes[helper] = self._take(f"home {step % 2}", mine.flat.nbytes)
                moving = trip.move(f"step {step + 1} of {last + 2}", gives, takes)
                try:
                    if home is not None:
                        yield home
                    if step <= last:
                        owner = trip.rank(-step)
                        made = HostArray(work(owner, trip.block(owner, data)), "what work returned")
                        made.fetch()
                finally:
                    moving.settle()
                moving.result()
                home = None
                if step == 0:
                    mine, home = made, (owner, made.value)
                elif step > 1:
                    home = helper, mine.like(takes[helper].view(mine.dtype), mine.shape)
                data = takes.get(before, data) if step < last else data
            if home is not None:
                yield home

    def _take(self, name: str, nbytes: int) -> Bytes:
        room: Bytes = self._room.take(name, nbytes)
        return room

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        if self._busy:
            raise RuntimeError("an exchange of this ring has not ended; comm.ring() makes another one")
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
