"""Runs plans through the windows of members that share a host, and the commit round there.

Where a rank stands is one number, the count of its signals; within a view all ranks signal equally often for each operation,
so what to wait for is known beforehand. A new view begins when all its members have said so: each leaves the attempts of
the old one first, so that nobody's window is written while a member still reads what the old view was about. Whoever
is not a member any more may read rubbish then, and throws it away: it cannot commit, since it looks, after the count, at the
call that the count belongs to, and that of its own operation is gone before the count goes on in another view.

The commit round is left out where a schedule is *closing* (`Schedule`): all that anybody needs lies in the windows once all have
given their last signal, and stays there, whoever dies. Why all survivors still agree, when rank C is told to halt while rank A
is about to return:

(1) A returns an operation only after it has seen all last signals, and then that no rank is frozen in this view.
(2) C, told to halt, says that it is frozen, and then looks whether all last signals are there (`freeze`). If so it reports the
operation as complete, and comes to its result later if need be (`catch_up`); else not. It looks once.
(3) If A found C not frozen, C froze after A had seen all signals; so C sees them, too, and reports complete. Hence: what anybody
has returned, every survivor reports. For this, C's store must come before C's loads, which takes a fence, and A's loads in order.
(4) The windows stay as they are until C has entered the next view, which no other rank begins without it (`open`); nor does
anybody write the cells of a block again before all have given a later signal.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..collectives import Action
from ..transports.base import Window
from ..transports.window import BASE, CALL, COUNT, EPOCH, FROZEN
from .attempt import Attempt, Mismatch
from .memory import HOST, Memory
from .original import Original
from .progress import Halted
from .undo import UndoLog
from .windowplan import SLOT_BYTES, SLOTS, Move, Place, WindowPlan

BULK_SPINS = 20  # a block takes longer than many looks, and the caller computes meanwhile
_SEQ_MASK = 0xFFFF


class SharedWindows:
    """The windows of one communicator's members in one view, by rank. ``alive(rank)`` raises LinkBroken for a dead one.
    ``traffic``: where bytes "written" and "read" are counted. ``place``: where the windows and all buffers lie."""

    def __init__(
        self,
        own: Window,
        others: Mapping[int, Window],
        rank: int,
        alive: Callable[[int], None],
        traffic: Counter[str],
        place: Memory = HOST,
    ):
        self._copy = place.copy
        self._reduce = place.reduce
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
        self._epoch = 0
        self._slot = 0  # blocks so far: the next one takes the other half of the windows
        self._loose = False  # some rank may still read what the last operation left in the windows
        self._closing: tuple[int, int] | None = None  # (seq, signals) of the operation in hand, if its plan closes
        self._incoming: Mapping[str, Original] = {}
        self._outgoing: Original | None = None
        self._rest: tuple[Any, ...] | None = None  # what is left of it for this rank, all signals given

    def open(self, attempt: Attempt) -> None:
        """Say that this rank is in the attempt's view, and wait until all are. Raises Halted, LinkBroken."""
        words = self._own.words
        self._own.settle()
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
        self._epoch = attempt.epoch
        attempt.moved()

    def begin(self, attempt: Attempt) -> None:
        call = attempt.fingerprint << 32 | (attempt.seq & _SEQ_MASK) << 16 | attempt.epoch & 0xFFFF
        self._closing, self._rest = None, None
        self._call = self._own.words[CALL] = call

    def run(
        self,
        plan: WindowPlan,
        buffers: Mapping[str, Any],
        dtype: np.dtype[Any],
        ufunc: np.ufunc | None,
        attempt: Attempt,
        undo: UndoLog | None = None,
        incoming: Mapping[str, Original] = MappingProxyType({}),
        outgoing: Original | None = None,
    ) -> None:
        """The data phase; see `run_streaming` for its arguments. Raises Halted, Mismatch, LinkBroken."""
        self._incoming, self._outgoing = incoming, outgoing
        last = plan.blocks - 1
        self._spins = self._own.spins if plan.blocks == 1 else min(BULK_SPINS, self._own.spins)
        if plan.closing:
            half = (self._slot + last) % SLOTS * plan.slot
            memory = (last * plan.cell, half, buffers, dtype, ufunc, undo)
            self._rest = plan, *memory
            self._closing = attempt.seq, self._done + plan.blocks * plan.signals
        elif self._loose:
            self._round(attempt)
        for block in range(plan.blocks):
            start = block * plan.cell
            slot = (self._slot + block) % SLOTS * plan.slot
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
        self._slot += plan.blocks
        self._rest = None
        self._loose = True
        self._traffic["written"] += plan.bytes_written
        self._traffic["read"] += plan.bytes_read

    # -- for what is no plan --------------------------------------------------------------------------------------------

    @property
    def others(self) -> Sequence[int]:
        """The other ranks, in the order in which to look at them."""
        return self._others

    def cell(self, rank: int, block: int) -> Any:
        """What the window of ``rank`` holds of a block of the operation in hand."""
        first = (self._slot + block) % SLOTS * SLOT_BYTES
        return self._windows[rank].data[first : first + SLOT_BYTES]

    def signal(self) -> None:
        """All that was written so far may be read."""
        self._own.signal()

    def wait(self, rank: int, signals: int, attempt: Attempt) -> None:
        """Until ``rank`` has given so many signals for the operation in hand. Raises Halted, Mismatch, LinkBroken."""
        self._wait(rank, self._done + signals, attempt)

    def pass_over(self, blocks: int) -> None:
        """So many blocks were written, with a signal each."""
        self._done += blocks
        self._slot += blocks

    # -- the end --------------------------------------------------------------------------------------------------------

    def commit(self, attempt: Attempt) -> None:
        """At its end this rank knows that all others can come to their results, and will say so. Raises Halted, LinkBroken."""
        if self._closing is None:
            self._round(attempt)
            return
        for rank in self._others:
            if self._words[rank][FROZEN] == attempt.epoch:
                raise Halted

    def freeze(self, epoch: int) -> int:
        """Nobody returns anything more in view ``epoch``. The number of the operation in hand if all ranks have given their last
        signal for it, else 0. Called by the agent's thread."""
        if epoch != self._epoch:
            return 0  # nobody has begun anything in that view: they would have waited for us
        self._own.words[FROZEN] = epoch
        with threading.Lock():  # an atomic instruction: the store is seen before what follows is read
            closing = self._closing
        if closing is None:
            return 0
        seq, signals = closing
        return seq if all(self._has_given(rank, signals, seq) for rank in range(len(self._words))) else 0

    def catch_up(self) -> None:
        """The operation in hand was committed by all: come to its result, if this rank was interrupted before."""
        if self._rest is not None:
            self._finish(*self._rest)
            self._rest = None

    def _round(self, attempt: Attempt) -> None:
        """Signal, and wait until all others have: whatever was before is over everywhere."""
        self._own.signal()
        self._done += 1
        for rank in self._others:
            self._wait(rank, self._done, attempt)
        self._loose = False

    # -- moving ---------------------------------------------------------------------------------------------------------

    def _finish(self, plan: WindowPlan, *memory: Any) -> None:
        """The last part of the last block."""
        start = memory[0]
        for move in plan.moves[plan.tail :]:
            nbytes = min(plan.cell, move.nbytes - start)
            if move.target is not None and nbytes > 0:
                self._move(move, start, memory[1], nbytes, *memory[2:])

    def _move(
        self,
        move: Move,
        start: int,
        slot: int,
        nbytes: int,
        buffers: Mapping[str, Any],
        dtype: np.dtype[Any],
        ufunc: np.ufunc | None,
        undo: UndoLog | None,
    ) -> None:
        assert move.target is not None
        if self._incoming and self._fetched(move, start, slot, nbytes, buffers):
            return
        if undo is not None and move.fresh and move.target.buffer == "out":
            undo.save(move.target.start + start, nbytes)
        if move.action is Action.COPY and move.final and self._outgoing is not None:
            self._outgoing.deliver(
                move.target.start + start, self._memory(move.sources[0], start, slot, nbytes, buffers)
            )
            return
        target = self._memory(move.target, start, slot, nbytes, buffers)
        if move.action is Action.COPY:
            self._copy(target, self._memory(move.sources[0], start, slot, nbytes, buffers))
        else:
            assert ufunc is not None
            parts = [self._memory(place, start, slot, nbytes, buffers) for place in move.sources]
            self._reduce(ufunc, dtype, parts, target)
        if move.final and self._outgoing is not None:
            self._outgoing.store(move.target.start + start, nbytes)

    def _fetched(self, move: Move, start: int, slot: int, nbytes: int, buffers: Mapping[str, Any]) -> bool:
        """Fetch what is to be moved and is not there yet; whether that was all, as it went straight to a window."""
        assert move.target is not None
        source = move.sources[0]
        if move.action is Action.COPY and move.target.owner >= 0 and source.buffer in self._incoming:
            target = self._memory(move.target, start, slot, nbytes, buffers)
            self._incoming[source.buffer].fetch_into(target, source.start + start)
            return True
        for place in (*move.sources, move.target):
            if place.owner < 0 and place.buffer in self._incoming:
                self._incoming[place.buffer].fetch(place.start + start, nbytes)
        return False

    def _memory(self, place: Place, start: int, slot: int, nbytes: int, buffers: Mapping[str, Any]) -> Any:
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
                if not attempt.marks.first:
                    attempt.marks.first = attempt.now()
                return
            os.sched_yield()
        while words[COUNT] < goal:
            self._sleep(rank, attempt)
        if words[CALL] != self._call:
            self._judge(rank, attempt)
        attempt.moved()
        if not attempt.marks.first:
            attempt.marks.first = attempt.now()

    def _has_given(self, rank: int, signals: int, seq: int) -> bool:
        words = self._words[rank]
        if words[COUNT] < self._bases[rank] + signals or words[EPOCH] != self._epoch:
            return False
        return words[CALL] == self._call or self._is_ahead(rank, seq)

    def _is_ahead(self, rank: int, seq: int) -> bool:
        return 0 < ((self._words[rank][CALL] >> 16) - seq) & _SEQ_MASK < _SEQ_MASK // 2

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
        if not self._is_ahead(rank, attempt.seq):
            raise Mismatch
