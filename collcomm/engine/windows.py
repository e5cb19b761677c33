"""Runs plans through the windows of members that share a host, and the commit round there.

Where a rank stands is one number, the count of its signals; within a view all ranks signal equally often for each operation,
so what to wait for is known beforehand. A new view begins when all its members have said so: each leaves the attempts of
the old one first, so that nobody's window is written while a member still reads what the old view was about. Whoever
is not a member any more may read rubbish then, and throws it away: it cannot commit, since it looks, after the count, at the
call that the count belongs to, and that of its own operation is gone before the count goes on in another view.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..collectives import Action
from ..transports.base import Window
from ..transports.window import BASE, CALL, COUNT, EPOCH
from .attempt import Attempt, Mismatch
from .undo import UndoLog
from .windowplan import SLOTS, Move, Place, WindowPlan

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_SEQ_MASK = 0xFFFF


class SharedWindows:
    """The windows of one communicator's members in one view, by rank. ``alive(rank)`` raises LinkBroken for a dead one.
    ``traffic``: where bytes "written" and "read" are counted."""

    def __init__(
        self,
        own: Window,
        others: Mapping[int, Window],
        rank: int,
        alive: Callable[[int], None],
        traffic: Counter[str],
    ):
        self._own = own
        self._traffic = traffic
        self._rank = rank
        self._alive = alive
        self._windows: list[Window] = [others[r] if r != rank else own for r in range(len(others) + 1)]
        self._words = [window.words for window in self._windows]
        self._bases = [0] * len(self._windows)
        self._spins = own.spins
        self._others = [(rank + shift) % len(self._windows) for shift in range(1, len(self._windows))]
        self._done = 0  # signals of each rank, up to the operation in hand
        self._call = 0

    def open(self, attempt: Attempt) -> None:
        """Say that this rank is in the attempt's view, and wait until all are. Raises Halted, LinkBroken."""
        words = self._own.words
        words[CALL] = 0  # of no operation: a rank of the old view must not take what follows for the end of its own
        words[BASE] = words[COUNT]
        words[EPOCH] = attempt.epoch
        self._own.signal()
        for rank in self._others:
            theirs = self._words[rank]
            while theirs[EPOCH] != attempt.epoch:
                self._sleep(rank, attempt)
            self._bases[rank] = theirs[BASE]
        self._bases[self._rank] = words[BASE]
        self._done = 1
        attempt.moved()

    def begin(self, attempt: Attempt) -> None:
        call = attempt.fingerprint << 32 | (attempt.seq & _SEQ_MASK) << 16 | attempt.epoch & 0xFFFF
        self._call = self._own.words[CALL] = call

    def run(
        self,
        plan: WindowPlan,
        buffers: Mapping[str, Bytes],
        dtype: np.dtype[Any],
        ufunc: np.ufunc | None,
        attempt: Attempt,
        undo: UndoLog | None = None,
    ) -> None:
        """The data phase. Raises Halted, Mismatch, LinkBroken."""
        for block in range(plan.blocks):
            start = block * plan.cell
            slot = block % SLOTS * plan.slot
            for move in plan.moves:
                action = move.action
                if action is Action.WAIT:
                    if block >= move.lag:
                        self._wait(move.peer, self._done + (block - move.lag) * plan.signals + move.signals, attempt)
                elif action is Action.SIGNAL:
                    self._own.signal()
                else:
                    nbytes = min(plan.cell, move.nbytes - start)
                    if nbytes > 0:
                        self._move(move, start, slot, nbytes, buffers, dtype, ufunc, undo)
            attempt.check()
        self._done += plan.blocks * plan.signals
        self._traffic["written"] += plan.bytes_written
        self._traffic["read"] += plan.bytes_read

    def commit(self, attempt: Attempt) -> None:
        """At its end this rank knows that all ranks had finished their data phase."""
        self._own.signal()
        self._done += 1
        for rank in self._others:
            self._wait(rank, self._done, attempt)

    def close(self) -> None:
        self._own.close()

    # -- moving ---------------------------------------------------------------------------------------------------------

    def _move(
        self,
        move: Move,
        start: int,
        slot: int,
        nbytes: int,
        buffers: Mapping[str, Bytes],
        dtype: np.dtype[Any],
        ufunc: np.ufunc | None,
        undo: UndoLog | None,
    ) -> None:
        assert move.source is not None and move.target is not None
        if undo is not None and move.fresh and move.target.buffer == "out":
            undo.save(move.target.start + start, nbytes)
        source = self._memory(move.source, start, slot, nbytes, buffers)
        target = self._memory(move.target, start, slot, nbytes, buffers)
        if move.other is None:
            target[:] = source
        else:
            assert ufunc is not None
            other = self._memory(move.other, start, slot, nbytes, buffers)
            ufunc(source.view(dtype), other.view(dtype), out=target.view(dtype))

    def _memory(self, place: Place, start: int, slot: int, nbytes: int, buffers: Mapping[str, Bytes]) -> Bytes:
        if place.owner < 0:
            first = place.start + start
            return buffers[place.buffer][first : first + nbytes]
        first = place.start + slot
        return self._windows[place.owner].data[first : first + nbytes]

    # -- waiting --------------------------------------------------------------------------------------------------------

    def _wait(self, rank: int, signals: int, attempt: Attempt) -> None:
        """Until ``rank`` has signalled so often in this view. Raises Halted, Mismatch, LinkBroken."""
        words, goal = self._words[rank], self._bases[rank] + signals
        for _ in range(self._spins):
            if words[COUNT] >= goal:
                if words[CALL] != self._call:
                    self._judge(rank, attempt)
                return
            os.sched_yield()
        while words[COUNT] < goal:
            self._sleep(rank, attempt)
        if words[CALL] != self._call:
            self._judge(rank, attempt)
        attempt.moved()

    def _sleep(self, rank: int, attempt: Attempt) -> None:
        window = self._windows[rank]
        before = window.words[COUNT]
        window.sleep(before)
        if window.words[COUNT] == before:
            self._alive(rank)
            attempt.idle((rank,))
        else:
            attempt.check()

    def _judge(self, rank: int, attempt: Attempt) -> None:
        """A rank has signalled often enough, and its call is not ours: it is further on, or it called something else."""
        words = self._words[rank]
        while words[EPOCH] != attempt.epoch:  # it has gone on to another view, of which we shall hear
            self._sleep(rank, attempt)
        behind = ((words[CALL] >> 16) - attempt.seq) & _SEQ_MASK
        if not 0 < behind < _SEQ_MASK // 2:
            raise Mismatch
