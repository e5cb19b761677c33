"""Where the engine gets time from: the system's clock, or a simulated one."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager
from typing import Any, Protocol


class Condition(Protocol):
    """As `threading.Condition`."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: Any) -> Any: ...

    def wait(self, timeout: float | None = None) -> bool: ...

    def notify_all(self) -> None: ...


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds since some moment in the past."""

    def condition(self, lock: AbstractContextManager[Any]) -> Condition:
        """A condition whose waits take this clock's time."""


class SystemClock:
    monotonic = staticmethod(time.monotonic)

    def condition(self, lock: Any) -> threading.Condition:
        return threading.Condition(lock)


SYSTEM = SystemClock()
