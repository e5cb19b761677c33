"""The order of one communicator's operations, and who runs them.

Operations run one at a time in the order of their calls. A synchronous call that finds nothing before it runs in its
caller's own thread; everything else runs on one engine thread, which starts with the first operation that needs it.

A call may consist of several operations (`nested`): they run one after the other in the thread that runs the call, with nothing
of another call between them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from .handle import Conclusion, Handle

Work = Callable[[], Any]


class OperationQueue:
    """``prepare`` runs under the lock that orders calls, in the caller's thread."""

    def __init__(self, name: str):
        self._name = name
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[tuple[Work, Handle]] = deque()
        self._busy = False
        self._owner = 0  # thread that runs a call of several operations
        self._closed = False
        self._thread: threading.Thread | None = None

    def run(self, prepare: Callable[[], Work], text: str) -> Any:
        """Run an operation and return its result; here and now if nothing is before it."""
        if self._owner and self._owner == threading.get_ident():
            return prepare()()
        with self._lock:
            work = prepare()
            mine = not self._busy and not self._waiting
            if mine:
                self._busy = True
            else:
                handle = self._append(work, text, None)
        if not mine:
            return handle.result()
        try:
            return work()
        finally:
            self.end()

    def begin(self, number: Callable[[], int]) -> int | None:
        """If nothing is before the caller: its operation's number, taken under the lock that orders calls. The caller then runs
        the operation in its own thread, and calls `end`. Else None."""
        with self._lock:
            if self._busy or self._waiting:
                return None
            self._busy = True
            return number()

    def end(self) -> None:
        with self._lock:
            self._busy = False
            if self._waiting or self._closed:
                self._changed.notify_all()

    def submit(self, prepare: Callable[[], Work], text: str, conclude: Conclusion | None = None) -> Handle:
        """Queue an operation for the engine thread."""
        with self._lock:
            return self._append(prepare(), text, conclude)

    def nested(self, work: Work) -> Work:
        """``work`` as one call, to be run or submitted: what it runs in this queue belongs to it."""

        def whole() -> Any:
            before, self._owner = self._owner, threading.get_ident()
            try:
                return work()
            finally:
                self._owner = before

        return whole

    def _append(self, work: Work, text: str, conclude: Conclusion | None) -> Handle:
        handle = Handle(text, conclude)
        self._waiting.append((work, handle))
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._changed.notify_all()
        return handle

    def _serve(self) -> None:
        while True:
            with self._lock:
                while self._busy or not self._waiting:
                    if self._closed and not self._waiting:
                        return
                    self._changed.wait()
                work, handle = self._waiting.popleft()
                self._busy = True
            try:
                value, error = work(), None
            except BaseException as problem:  # whatever it is, it belongs to whoever holds the handle
                value, error = None, problem
            self.end()
            handle.finish(value, error)

    @property
    def idle(self) -> bool:
        with self._lock:
            return not self._busy and not self._waiting

    def close(self) -> None:
        """Let the engine thread end; the caller has made sure that operations fail by now."""
        with self._lock:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
