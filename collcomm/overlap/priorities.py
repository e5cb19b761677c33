"""Reductions of which the most urgent goes first, also in the midst of a large one: the gradient that is needed first need not
wait for one that was there before it. See `turns` for how members agree on the order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from ..engine.handle import Handle
from ..errors import CommunicatorClosed
from ..types import View
from .flat import in_a_row, itemsize_of
from .triggered import Reduces
from .turns import Chunk, Turns

TURN_SECONDS = 0.02
END_SECONDS = 10.0
LOOK_SECONDS = 0.5
OnChunk = Callable[[int, int], None]


class Part(Reduces, Protocol):
    """What this needs of the `Communicator` that it makes."""

    @property
    def view(self) -> View: ...

    @property
    def closed(self) -> bool: ...

    def close(self) -> None: ...


class Whole(Protocol):
    """What it needs of the one that it is made from."""

    @property
    def size(self) -> int: ...

    def split(self, ranks: Sequence[int]) -> Part | None: ...


class PriorityHandle(Handle):
    """Of one reduction; it may cross steps and views. ``reduced``: elements that are final, from the first on; ``views``: those
    in which they were reduced, in order: with more than one, a member has gone meanwhile, and its numbers are in what had been
    reduced before, and not in the rest."""

    def __init__(self, text: str, cancel: Callable[[], None]):
        super().__init__(text)
        self.reduced = 0
        self.views: tuple[View, ...] = ()
        self._cancel = cancel

    @property
    def view(self) -> View | None:
        """The latest of `views`; None before the first chunk was reduced."""
        return self.views[-1] if self.views else None

    def cancel(self) -> bool:
        """Ask for its end, at all members; False when it has ended. Whether that came in time, before the last chunk was on its
        way, all see alike: `result` raises CancelledError, or returns the result. What was reduced before stays so."""
        if self.done():
            return False
        self._cancel()
        return True


class _Job:
    """What is to be reduced. ``error``: of its callback."""

    def __init__(self, x: Any, flat: Any, options: dict[str, Any], on_chunk: OnChunk | None, handle: PriorityHandle):
        self.x, self.flat = x, flat
        self.options, self.on_chunk, self.handle = options, on_chunk, handle
        self.error: Exception | None = None

    def note(self, chunk: Chunk, view: View) -> None:
        """``chunk`` has been reduced, in that view."""
        self.handle.reduced = chunk.stop
        if self.handle.view is None or self.handle.view.epoch != view.epoch:
            self.handle.views += (view,)
        if self.on_chunk is not None and self.error is None:
            try:
                self.on_chunk(chunk.start, chunk.stop)
            except Exception as error:
                self.error = error


class _Going:
    """An operation with the engine, which runs one after the other. ``before``: what it did until then; None: it rested."""

    def __init__(self, handle: Handle, before: _Going | None, chunk: Chunk | None = None):
        self.handle, self.chunk = handle, chunk
        self._before = before
        self._began, self._ended = time.monotonic(), 0.0
        handle.add_done_callback(self._note)

    def _note(self, _: Handle) -> None:
        self._ended = time.monotonic()

    def concerns(self, number: int | None) -> bool:
        return self.chunk is not None and self.chunk.number == number

    def take_seconds(self) -> float:
        """That it took by itself; 0.0 when that is not known. To be asked once, when it has ended."""
        before, self._before = self._before, None
        return 0.0 if before is None or not self._ended else self._ended - max(self._began, before._ended)


class PriorityScheduler:
    """Reduces in the background, on a communicator of its own, over the present members of ``comm``. All members make one, at the
    same point, and submit the same reductions in the same order, each whenever it is ready.

    ``turn_seconds``: how long a chunk should take; what is urgent waits for two. ``timeout``: seconds for one chunk, including
    that all have submitted something; by default that of ``comm``. Who joins ``comm`` later is not in it: after a step that let
    somebody in, wait for what is pending, close it, and make another.

    When an operation fails, at all members, all that is pending fails with its error, and the scheduler is at its end. To be
    closed before ``comm``; may be used as a context manager.
    """

    def __init__(self, comm: Whole, turn_seconds: float = TURN_SECONDS, timeout: float | None = None):
        if not turn_seconds > 0:
            raise ValueError(f"turn_seconds must be a positive number, not {turn_seconds!r}")
        part = comm.split(range(comm.size))
        assert part is not None
        self._comm = part
        self._timeout = timeout
        self._turns = Turns(turn_seconds)
        self._changed = threading.Condition()
        self._jobs: dict[int, _Job] = {}
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="collcomm-priorities", daemon=True)
        self._thread.start()

    @property
    def view(self) -> View:
        """In which the last operation ran."""
        return self._comm.view

    def all_reduce(
        self,
        x: Any,
        op: str = "sum",
        *,
        priority: int = 0,
        codec: Any = None,
        on_chunk: OnChunk | None = None,
    ) -> PriorityHandle:
        """Reduce ``x``, a contiguous array or tensor, in place; hands off until the handle's result, which is ``x``.

        ``priority``: the lower goes first; of equals, what was submitted first. ``on_chunk(start, stop)``: these elements, in C
        order, are final; called on a thread of the scheduler, in order; what it raises becomes the error of the handle, here
        alone, when all have been reduced. ``codec``: one without a memory. Raises ValueError, OverflowError when 65,536 are
        pending, and the error that has ended the scheduler."""
        flat = in_a_row(x)
        with self._changed:
            if self._error is not None:
                raise self._error
            number = self._turns.submit(len(flat), itemsize_of(x), priority)
            handle = PriorityHandle(f"a reduction with priority {priority}", partial(self._unwanted, number))
            self._jobs[number] = _Job(x, flat, {"op": op, "codec": codec}, on_chunk, handle)
            self._changed.notify_all()
        return handle

    def _unwanted(self, number: int) -> None:
        with self._changed:
            self._turns.cancel(number)

    def close(self) -> None:
        """What is pending fails with CommunicatorClosed. Not collective: have all results first."""
        with self._changed:
            self._error = self._error or CommunicatorClosed("the scheduler was closed")
            self._changed.notify_all()
        self._comm.close()
        if self._thread is not threading.current_thread():
            self._thread.join(END_SECONDS)

    def __enter__(self) -> PriorityScheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        flying: list[_Going] = []
        error: BaseException
        try:
            while self._awaited():
                self._run(flying)
            error = CommunicatorClosed("this peer has left the group")
        except BaseException as caught:
            error = caught
        for going in flying:
            going.handle.wait()  # it may still write into what belongs to the caller
        with self._changed:
            self._error = error = self._error or error
            jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            job.handle.finish(error=error)

    def _awaited(self) -> bool:
        """Wait until something is pending; False when the scheduler is at its end."""
        with self._changed:
            while self._error is None and not self._turns.pending and not self._comm.closed:
                self._changed.wait(LOOK_SECONDS)  # whether the group has been left
            return self._error is None and not self._comm.closed

    def _run(self, flying: list[_Going]) -> None:
        """Chunk after chunk, until there is none of which all know. ``flying``: what is with the engine: a chunk, the words by
        which the one after the next is chosen, and the next; so that the engine never waits for this thread."""
        running: _Going | None = None
        words = self._say(None)
        flying[:] = [words]
        while True:
            chunk, cancelled = self._hear(words)
            if running is not None and (chunk is None or running.concerns(cancelled)):
                self._settle(running)
                running = None
            if cancelled is not None:
                self._take(cancelled).handle.finish(error=CancelledError("a member has cancelled this reduction"))
            if chunk is None:
                return
            words = self._say(running)
            started = self._start(chunk, words)
            flying += words, started
            if running is not None:
                self._settle(running)
            running = started
            flying[:] = words, started

    def _say(self, before: _Going | None) -> _Going:
        with self._changed:
            mine = np.array(self._turns.words(), np.int64)
        return _Going(self._comm.all_reduce(mine, op="max", async_op=True, timeout=self._timeout), before)

    def _hear(self, words: _Going) -> tuple[Chunk | None, int | None]:
        agreed = words.handle.result().tolist()
        with self._changed:
            self._turns.took(exchange=words.take_seconds())
            return self._turns.agreed(agreed)

    def _start(self, chunk: Chunk, before: _Going) -> _Going:
        job = self._jobs[chunk.number]
        part = job.flat[chunk.start : chunk.stop]
        handle = self._comm.all_reduce(part, out=part, async_op=True, timeout=self._timeout, **job.options)
        return _Going(handle, before, chunk)

    def _settle(self, running: _Going) -> None:
        """A chunk is done, or fails."""
        running.handle.result()
        chunk, view = running.chunk, self._comm.view
        assert chunk is not None
        job = self._jobs[chunk.number]
        with self._changed:
            self._turns.took(running.take_seconds(), (chunk.stop - chunk.start) * itemsize_of(job.x))
        job.note(chunk, view)
        if chunk.last:
            self._take(chunk.number).handle.finish(job.x, job.error)

    def _take(self, number: int) -> _Job:
        with self._changed:
            return self._jobs.pop(number)
