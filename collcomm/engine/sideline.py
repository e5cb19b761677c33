"""A thread beside the operations, with links of its own: it answers those who measure, and does what else is to be done there."""

from __future__ import annotations

import threading
from collections import deque

from ..transports import SocketTransport
from ..transports.sockets import SocketLink
from ..types import Member, View
from .asking import hang_up

MOST_WAITING = 64  # links on which somebody wants to be answered
END_SECONDS = 5.0


class Ended(Exception):
    """The thread is to end, whatever it is in the middle of."""


class Sideline:
    """``name``: of the thread, which `_start` begins with the first work there is, and which runs `_serve`. What is shared with
    it is guarded by ``_changed``."""

    def __init__(self, transport: SocketTransport, name: str):
        self._transport = transport
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._member = -1
        self._view = View(-1, ())
        self._to_answer: deque[SocketLink] = deque()

    def accept(self, link: SocketLink) -> None:
        """Somebody has made it to be answered here. Does not wait."""
        with self._changed:
            welcome = not self._closed and len(self._to_answer) < MOST_WAITING
            if welcome:
                self._to_answer.append(link)
                self._start()
        if not welcome:
            hang_up(self._transport, link)

    def close(self) -> None:
        """End the thread; what it is in the middle of breaks off."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread, waiting = self._thread, list(self._to_answer)
        for link in waiting:
            link.close()
        if thread is not None and thread is not threading.current_thread():
            thread.join(END_SECONDS)

    def _start(self) -> None:
        """See to it that the thread runs, and looks at what has changed."""
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._serve, name=f"{self._name}-{self._member}", daemon=True)
            self._thread.start()
        self._changed.notify_all()

    def _serve(self) -> None:
        raise NotImplementedError

    def _check(self) -> None:
        if self._closed:
            raise Ended

    def _find(self, member: int) -> Member | None:
        rank = self._view.rank_of(member)
        return None if rank is None else self._view[rank]
