"""The handle of an operation that runs while its caller does something else."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator
from typing import Any

from ..errors import CollectiveTimeout

log = logging.getLogger("collcomm")
Conclusion = Callable[[Any, BaseException | None], Any]


class Handle:
    """Result of ``async_op=True``. Thread-safe; also awaitable in a running asyncio loop.

    ``conclude(value, error)`` makes the result out of what the engine computed, or raises; it runs once, in the thread that
    first asks for the result.
    """

    def __init__(self, text: str, conclude: Conclusion | None = None):
        self._text = text
        self._conclude = conclude
        self._finished = threading.Condition()
        self._done = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Handle], None]] = []

    def done(self) -> bool:
        return self._done

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the operation has ended, well or badly. False when ``timeout`` seconds were not enough."""
        with self._finished:
            return self._finished.wait_for(lambda: self._done, timeout)

    def result(self, timeout: float | None = None) -> Any:
        """The operation's result, or its error raised here. Raises CollectiveTimeout when ``timeout`` seconds were not
        enough; the operation then goes on, and result() may be called again."""
        if not self.wait(timeout):
            raise CollectiveTimeout(f"{self._text} has not finished within {timeout:.3g} s; it goes on")
        with self._finished:
            if self._conclude is not None:
                conclude, self._conclude = self._conclude, None
                try:
                    self._value = conclude(self._value, self._error)
                except BaseException as error:
                    self._error = error
        if self._error is not None:
            raise self._error
        return self._value

    def exception(self) -> BaseException | None:
        """The error that ended the operation; None while it runs or when it succeeded."""
        return self._error

    def add_done_callback(self, callback: Callable[[Handle], None]) -> None:
        """Call ``callback(handle)`` on the engine's thread when the operation ends; at once if it has ended."""
        with self._finished:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback(self)

    def __await__(self) -> Generator[Any, None, Any]:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def wake() -> None:
            if not ended.done():
                ended.set_result(None)

        def from_engine(_: Handle) -> None:
            try:
                loop.call_soon_threadsafe(wake)
            except RuntimeError:
                pass  # the loop was closed while the operation ran; nobody waits any more

        self.add_done_callback(from_engine)
        yield from ended.__await__()
        return self.result(0)

    def finish(self, value: Any = None, error: BaseException | None = None) -> None:
        """Called once, by the engine."""
        with self._finished:
            self._value, self._error, self._done = value, error, True
            callbacks, self._callbacks = self._callbacks, []
            self._finished.notify_all()
        for callback in callbacks:
            try:
                callback(self)
            except Exception:  # the engine's thread has others to serve
                log.exception("a callback of %s failed", self._text)
