"""How calls come into a communicator's engine, whatever carries its operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..clock import Clock
from ..transports.device import DeviceFailed
from ..types import View
from .choosing import Choosing
from .handle import Conclusion, Handle
from .marks import Marks, Recorder
from .operation import Operation
from .progress import Progress
from .queue import OperationQueue
from .request import Request


class Calls:
    """Numbers operations in the order of their calls and runs them one at a time. ``view`` is what the user has been shown;
    it changes only inside his calls. `_carry_out` is what does the work."""

    def __init__(self, name: str, view: View, progress: Progress, clock: Clock, recorder: Recorder | None = None):
        self.recorder = recorder
        self.marks = Marks()  # of the operation under way
        self.view = view
        self.progress = progress
        self.queue = OperationQueue(name)
        self.operations = 0
        self.retries = 0
        self.seconds_lost = 0.0
        self.choosing = Choosing()
        self._clock = clock

    def run(self, operation: Operation, timeout: float) -> Any:
        """Run to the end in the caller's thread (or behind what is queued); returns the flat result."""
        seq = self.queue.begin(self.progress.take)
        if seq is None:
            return self.queue.run(lambda: self._numbered(operation, timeout), operation.request.kind)
        try:
            operation.seq = seq
            return self._perform(operation, seq, self._clock.monotonic() + timeout)
        finally:
            self.queue.end()

    def submit(self, operation: Operation, timeout: float, conclude: Conclusion) -> Handle:
        """Queue it; the handle's result is what ``conclude`` makes of the flat result."""
        return self.queue.submit(lambda: self._numbered(operation, timeout), operation.request.call.text, conclude)

    def call(self, work: Callable[[], Any], text: str, async_op: bool, conclude: Conclusion | None = None) -> Any:
        """A call of several operations: runs here or, with ``async_op``, behind a handle, whose result is what ``conclude``
        makes of that of ``work``."""
        whole = self.queue.nested(work)
        return self.queue.submit(lambda: whole, text, conclude) if async_op else self.queue.run(lambda: whole, text)

    def stays_on_device(self, request: Request) -> bool:
        """Whether all members can do ``request`` without taking it off their devices; all find the same."""
        return False

    def show(self, view: View) -> None:
        """The user learns of ``view``."""
        if view.epoch > self.view.epoch:
            self.view = view

    def _numbered(self, operation: Operation, timeout: float) -> Callable[[], Any]:
        """Its number is taken when its turn has come: calls before it may be of any number of operations."""
        deadline = self._clock.monotonic() + timeout

        def work() -> Any:
            seq = operation.seq = self.progress.take()
            return self._perform(operation, seq, deadline)

        return work

    def _perform(self, operation: Operation, seq: int, deadline: float) -> Any:
        began, lost = self._clock.monotonic(), self.seconds_lost
        request = operation.request
        self.marks.request, self.marks.enter = request, began
        try:
            result = self._carry_out(operation, seq, deadline)
        except BaseException as error:
            self._record(request, request.nbytes(), seq, began, self._clock.monotonic(), type(error).__name__)
            if self.recorder is not None:
                self.recorder.failed(type(error).__name__)
            if isinstance(error, DeviceFailed):
                self._abandon(f"{request.call.text}: {error}")
            raise
        ended = self._clock.monotonic()
        nbytes = request.nbytes()
        if lost == self.seconds_lost:
            self.choosing.took(request.kind, nbytes, ended - began)
        self._record(request, nbytes, seq, began, ended, "")
        return result

    def _record(self, request: Request, nbytes: int, seq: int, began: float, ended: float, outcome: str) -> None:
        if self.recorder is None:
            return
        marks = self.marks
        self.recorder.operation(
            self.progress.gid,
            marks.epoch,
            seq,
            request.kind,
            nbytes,
            marks.algorithm,
            began,
            marks.first,
            marks.last,
            marks.commit,
            ended,
            marks.waited,
            outcome,
        )

    def _carry_out(self, operation: Operation, seq: int, deadline: float) -> Any:
        raise NotImplementedError

    def _abandon(self, why: str) -> None:
        """This peer can take part in nothing more."""
        raise NotImplementedError
