"""The two loops that do what a course asks for: one blocks, one awaits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import CollcommError
from .course import Agree, Face, Meet, Request, Wait, Work


class SyncFace(Face, Protocol):
    """What the blocking loop needs of a `collcomm.Communicator`."""

    def step(self, timeout: float | None = None) -> Any: ...

    def sync(self, state: Mapping[str, Any], revision: int | None) -> Any: ...


class AsyncFace(Protocol):
    """What the awaiting loop needs of a `collcomm.aio.AsyncCommunicator`."""

    @property
    def sync_face(self) -> Any: ...

    async def step(self, timeout: float | None = None) -> Any: ...

    def sync(self, state: Mapping[str, Any], revision: int | None) -> Any: ...


class Steps(Protocol):
    """A course of one method, as work for each event."""

    repeated: int
    admissions: int
    launched_bytes: int

    @property
    def steps(self) -> int: ...

    def sync(self) -> Work: ...

    def step(self) -> Work: ...

    def finish(self) -> Work: ...


@dataclass(frozen=True)
class TrainingReport:
    """Since this object was made.

    ``steps``: inner steps of the run. ``exposed_seconds``: this peer stood still for others; of these ``admitting_seconds``
    to agree on the state and to take in newcomers. ``method_seconds``: of the method's own arithmetic. ``admissions``: how
    often the members met for that.
    ``repeated``: exchanges that a death had spoiled and that were made again, or left out, here. ``launched_bytes``: of what was
    averaged or exchanged, as large as it is without a codec; a reduction over n peers has each send 2 (n - 1) / n times as much.
    """

    steps: int
    exposed_seconds: float
    admitting_seconds: float
    method_seconds: float
    admissions: int
    repeated: int
    launched_bytes: int


class _Loop:
    """What both keep."""

    def __init__(self, course: Steps):
        self._course = course
        self._failure: BaseException | None = None
        self._exposed = self._admitting = self._method = 0.0

    @property
    def steps(self) -> int:
        """Inner steps that the run has taken; a newcomer has the group's count after `sync`."""
        return self._course.steps

    @property
    def report(self) -> TrainingReport:
        course = self._course
        waited = self._exposed, self._admitting, self._method
        return TrainingReport(self.steps, *waited, course.admissions, course.repeated, course.launched_bytes)

    def _require_sound(self) -> None:
        if self._failure is not None:
            raise CollcommError(
                f"this training has failed ({self._failure!r}) and may differ from the other members'; leave, and join anew"
            )

    def _next(self, work: Work, answer: Any, error: Exception | None) -> Request:
        """What the course asks for next. Raises StopIteration at its end, and its errors."""
        began = time.perf_counter()
        try:
            return work.send(answer) if error is None else work.throw(error)
        finally:
            self._method += time.perf_counter() - began

    def _waited(self, request: Request, began: float) -> None:
        seconds = time.perf_counter() - began
        self._exposed += seconds
        if not isinstance(request, Wait):
            self._admitting += seconds


class BlockingLoop(_Loop):
    """Runs in the caller's thread; what is in flight runs in the communicator's."""

    def __init__(self, course: Steps, comm: SyncFace):
        super().__init__(course)
        self._comm = comm

    def sync(self) -> None:
        """Agree on the state, once, before the first step.

        :raises ValueError: the group trains another model, or with another method or settings of it.
        :raises StateDiverged: no majority holds the same content.
        """
        self._do(self._course.sync())

    def step(self) -> None:
        """This peer has taken an inner step. All members take as many.

        :raises OutOfStep: they did not.
        """
        self._do(self._course.step())

    def finish(self) -> None:
        """Apply what is in flight; afterwards the parameters are the common ones, the same bits at all members."""
        self._do(self._course.finish())

    def _do(self, work: Work) -> None:
        self._require_sound()
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                request = self._next(work, answer, error)
                answer, error, began = None, None, time.perf_counter()
                try:
                    answer = self._perform(request)
                except Exception as problem:  # the course may know what to do
                    error = problem
                self._waited(request, began)
        except StopIteration:
            return
        except BaseException as problem:
            self._failure = problem
            raise

    def _perform(self, request: Request) -> Any:
        if isinstance(request, Wait):
            return request.handle.result()
        if isinstance(request, Meet):
            return self._comm.step()
        assert isinstance(request, Agree)
        return self._comm.sync(request.state, request.revision)


class AwaitingLoop(_Loop):
    """The event loop runs on while something is awaited.

    Cancelling a call stops the waiting only: the next call goes on where it was, then does its own.
    """

    def __init__(self, course: Steps, comm: AsyncFace):
        super().__init__(course)
        self._comm = comm
        self._unfinished: asyncio.Task[None] | None = None

    async def sync(self) -> None:
        """As `Training.sync`."""
        await self._after(self._course.sync())

    async def step(self) -> None:
        """As `Training.step`."""
        await self._after(self._course.step())

    async def finish(self) -> None:
        """As `Training.finish`."""
        await self._after(self._course.finish())

    async def _after(self, work: Work) -> None:
        if self._unfinished is not None:
            await asyncio.shield(self._unfinished)
        self._unfinished = asyncio.ensure_future(self._do(work))
        await asyncio.shield(self._unfinished)
        self._unfinished = None

    async def _do(self, work: Work) -> None:
        self._require_sound()
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                request = self._next(work, answer, error)
                answer, error, began = None, None, time.perf_counter()
                try:
                    answer = await self._perform(request)
                except Exception as problem:  # the course may know what to do
                    error = problem
                self._waited(request, began)
        except StopIteration:
            return
        except BaseException as problem:
            self._failure = problem
            raise

    async def _perform(self, request: Request) -> Any:
        if isinstance(request, Wait):
            return await request.handle
        if isinstance(request, Meet):
            return await self._comm.step()
        assert isinstance(request, Agree)
        return await self._comm.sync(request.state, request.revision)
