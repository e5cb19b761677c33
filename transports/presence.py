"""What a peer is at present, for all threads of its transport: its standing in the view, and whether it is still open."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .base import TransportClosed
from .door import Standing
from .stream import WAIT_SECONDS


class Presence:
    """``changed`` guards what may change, is notified of all that does, and may be held while `wait` is called."""

    def __init__(self) -> None:
        self.standing = Standing()
        self.closed = False
        self.changed = threading.Condition()

    def become(self, **changes: Any) -> bool:
        """Fields of the standing that are no longer the same. False, and nothing changes, when the transport is closed."""
        with self.changed:
            if not self.closed:
                self.standing = self.standing._replace(**changes)
                self.changed.notify_all()
            return not self.closed

    def close(self) -> bool:
        """False when it was closed already."""
        with self.changed:
            was_open, self.closed = not self.closed, True
            self.changed.notify_all()
            return was_open

    def check_open(self, doing: str) -> None:
        """Raise TransportClosed when it was closed while ``doing`` something."""
        if self.closed:
            raise TransportClosed(f"the communicator was closed while {doing}")

    def wait(self, check: Callable[[], None]) -> None:
        """Until something changes, a few milliseconds at most; then ``check``, which may raise."""
        with self.changed:
            self.changed.wait(WAIT_SECONDS)
            check()
