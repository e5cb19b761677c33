"""What an operation of a process group hands back: `torch.distributed.Work`, done already, or behind a handle of the engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from queue import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist

from ..engine import Handle
from .calls import Tensors
from .errors import as_torch

CLOSE_SECONDS = 5.0  # a callback that takes longer is left to itself


class Done(dist.Work):
    """An operation that ran in its caller's thread."""

    def __init__(self, tensors: Tensors):
        super().__init__()
        self._tensors = tensors

    def wait(self, timeout: timedelta | None = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def is_success(self) -> bool:
        return True

    def exception(self) -> None:
        return None

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def block_current_stream(self) -> None:
        """There is nothing to wait for."""

    def result(self) -> list[Any]:
        return list(self._tensors)

    def get_future(self) -> Any:
        future = torch.futures.Future()
        future.set_result(list(self._tensors))
        return future


class Pending(dist.Work):
    """Operations that run behind ``handles``; ``finish`` is called once, when the first waits has seen them end well. With
    ``receives``, the handle's result is the sender's rank."""

    def __init__(
        self,
        handles: Sequence[Handle],
        tensors: Tensors,
        futures: Futures,
        receives: bool = False,
        finish: Callable[[], None] | None = None,
    ):
        super().__init__()
        self._handles = handles
        self._tensors = tensors
        self._futures = futures
        self._receives = receives
        self._finish = finish
        self._finishing = threading.Lock()
        self._future: Any = None
        self._record: Any = None

    @classmethod
    def of_all(cls, works: Sequence[Pending], futures: Futures) -> Pending:
        """All of them as one."""

        def finish() -> None:
            for work in works:
                work.wait()

        handles = [handle for work in works for handle in work._handles]
        return cls(handles, [tensor for work in works for tensor in work._tensors], futures, finish=finish)

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Raises the operation's error; CollectiveTimeout when ``timeout`` was not enough (the operation goes on)."""
        self._conclude(None if timeout is None else timeout.total_seconds())
        if self._record is not None and not self._futures.completes_here:  # who waits for himself waits for ever
            self._record.wait()
        return True

    def _conclude(self, seconds: float | None = None) -> None:
        until = time.monotonic() + seconds if seconds is not None and seconds > 0 else None
        try:
            for handle in self._handles:
                handle.result(None if until is None else max(0.0, until - time.monotonic()))
        except Exception as error:
            raise as_torch(error) from None
        with self._finishing:
            if self._finish is not None:
                self._finish()
                self._finish = None

    def is_completed(self) -> bool:
        return all(handle.done() for handle in self._handles)

    def is_success(self) -> bool:
        return self.is_completed() and self.exception() is None

    def exception(self) -> BaseException | None:
        errors = [handle.exception() for handle in self._handles]
        return next((as_torch(error) for error in errors if error is not None), None)

    def synchronize(self) -> None:
        self.wait()

    def block_current_stream(self) -> None:
        self.wait()

    def result(self) -> list[Any]:
        return list(self._tensors)

    def source_rank(self) -> int:
        self.wait()
        return int(self._handles[0].result()) if self._receives else -1

    _source_rank = source_rank

    def get_future(self) -> Any:
        if self._future is None:
            self._future = self._futures.of(self)
        return self._future

    def record_in(self, future: Any, record: Any) -> None:
        """Complete ``future`` on another thread, also where all has ended already. That ends ``record``, a future, for which
        `wait` waits, too: a profiler that had stopped before could not take it."""
        self._record = record
        self._futures.complete(self, future)

    def settle(self, future: Any) -> None:
        """Complete ``future``, whose callbacks run now, in this thread."""
        try:
            self._conclude()
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(list(self._tensors))

    def add_done_callback(self, callback: Any) -> None:
        """``callback()`` once all has ended, on the thread that ended it."""
        left = len(self._handles)
        lock = threading.Lock()

        def ended(_: Handle) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = left == 0
            if last:
                callback()

        for handle in self._handles:
            handle.add_done_callback(ended)


class Futures:
    """Completes the futures of one process group, in the order in which their operations end.

    A future's callbacks may run collectives and wait for them (PowerSGD's do), so they run neither on the thread that moves
    data nor on the one that completes the futures that they wait for: a future which a callback asks for is completed by
    the next of `_Completer`'s threads, one for each such level. A callback must not wait for a future that was asked for
    outside and is not done yet: all those wait for the callback's end, so that callbacks run in the same order at all ranks.
    """

    def __init__(self, name: str):
        self._name = name
        self._lock = threading.Lock()
        self._levels: list[_Completer] = []
        self._level = threading.local()

    @property
    def completes_here(self) -> bool:
        """Whether this thread is one of ours, so that a callback of some future is running."""
        return hasattr(self._level, "number")

    def of(self, work: Pending) -> Any:
        future = torch.futures.Future()
        if work.is_completed():
            work.settle(future)
        else:
            self.complete(work, future)
        return future

    def complete(self, work: Pending, future: Any) -> None:
        """Once ``work`` has ended, on one of our threads."""
        completer = self._completer(getattr(self._level, "number", 0))
        work.add_done_callback(lambda: completer.put(work, future))

    def _completer(self, level: int) -> _Completer:
        with self._lock:
            while len(self._levels) <= level:
                number = len(self._levels) + 1
                self._levels.append(_Completer(f"{self._name}-futures-{number}", number, self._level))
            return self._levels[level]

    def close(self) -> None:
        """All operations have ended: complete what is left, and let the threads go."""
        with self._lock:
            levels, self._levels = self._levels, []
        for completer in levels:
            completer.close()


class _Completer:
    """A thread that completes futures."""

    def __init__(self, name: str, number: int, level: threading.local):
        self._queue: SimpleQueue[tuple[Pending, Any] | None] = SimpleQueue()
        self._number = number
        self._level = level
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Pending, future: Any) -> None:
        self._queue.put((work, future))

    def _serve(self) -> None:
        self._level.number = self._number
        while (item := self._queue.get()) is not None:
            work, future = item
            work.settle(future)

    def close(self) -> None:
        self._queue.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)
