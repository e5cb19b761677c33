"""A signal that asks something of this process, beside the handler that the user may have for it.

One handler per signal is installed, whoever listens; it tells the listeners, and then calls the handler that was there before.
It runs in the main thread between any two steps of whatever that does, so listeners must neither wait nor take a lock: putting
something into a `queue.SimpleQueue` is made for that. A main thread that is inside foreign code (a long kernel, say) gets
to the handler when it comes back from there.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

log = logging.getLogger("collcomm.health")
Tell = Callable[[], None]


class _Installed:
    def __init__(self, number: int, previous: Any):
        self.number = number
        self.previous = previous
        self.listeners: tuple[Tell, ...] = ()  # replaced as a whole: the handler may run at any moment

    def __call__(self, number: int, frame: FrameType | None) -> None:
        for tell in self.listeners:
            tell()
        if callable(self.previous):
            self.previous(number, frame)


_installed: dict[int, _Installed] = {}
_lock = threading.Lock()  # never taken by the handler


def listen(number: int, tell: Tell) -> bool:
    """From now on ``tell`` is called when the signal comes. False, and a warning, where that cannot be: outside of the main
    thread, and where something that is not Python handles the signal."""
    name = signal.Signals(number).name
    with _lock:
        installed = _installed.get(number)
        if installed is None:
            previous = signal.getsignal(number)
            if previous is None:
                log.warning("%s is handled by foreign code: it will not make dumps", name)
                return False
            installed = _Installed(number, previous)
            try:
                signal.signal(number, installed)
            except ValueError:
                log.warning("%s will not make dumps: only the main thread can set that up, so join there", name)
                return False
            _installed[number] = installed
        elif not _reached(installed):
            log.warning("another handler for %s was set since: it makes dumps only if that calls ours", name)
        installed.listeners = (*installed.listeners, tell)
        return True


def unlisten(number: int, tell: Tell) -> None:
    """``tell`` is called no more. After the last one the handler of before is back, where nobody has set another since; ours
    stays, and does nothing but call it, where this is not the main thread."""
    with _lock:
        installed = _installed.get(number)
        if installed is None:
            return
        installed.listeners = tuple(one for one in installed.listeners if one != tell)
        main = threading.current_thread() is threading.main_thread()
        if not installed.listeners and main and _reached(installed):
            signal.signal(number, installed.previous)
            del _installed[number]


def _reached(installed: _Installed) -> bool:
    return signal.getsignal(installed.number) is installed
