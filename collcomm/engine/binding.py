"""Brings the windows of a view's members together."""

from __future__ import annotations

from collections import Counter
from functools import partial

from ..errors import UnsupportedTransport
from ..transports.base import Transport, Window
from ..types import View
from .attempt import Attempt
from .windowplan import window_bytes
from .windows import SharedWindows

WINDOW_LINKS = 2  # purpose of a link, as in a greeting
MOST_SHARED = 64  # members; more have too little room in each other's windows


class WindowBinding:
    """A communicator's own window, made when it is first needed, and those of the others, for one view after the other.

    Links for windows carry nothing else, and tell when their other end dies.
    """

    def __init__(self, gid: int, transport: Transport):
        self._gid = gid
        self._transport = transport
        self._own: Window | None = None
        self.traffic: Counter[str] = Counter()

    def bind(self, view: View, rank: int, attempt: Attempt) -> SharedWindows:
        """Raises Halted, LinkBroken, UnsupportedTransport (no memory)."""
        if self._own is None:
            self._own = self._make()
        links, others = {}, {}
        for peer, member in enumerate(view.members):
            if peer == rank:
                continue
            check = partial(attempt.idle, (peer,))
            link = self._transport.link(self._gid, WINDOW_LINKS, member, check)
            if link.window is None:
                link.window = self._transport.exchange(link, self._own, check)
            links[peer], others[peer] = link, link.window
        shared = SharedWindows(self._own, others, rank, lambda peer: links[peer].streams[0].check_open(), self.traffic)
        shared.open(attempt)
        return shared

    def _make(self) -> Window:
        try:
            return self._transport.make_window(window_bytes())
        except OSError as error:
            raise UnsupportedTransport(
                f"no memory for a window of {window_bytes() >> 20} MiB: {error.strerror}; this peer has left the group, "
                f'free some or join again with transports=["tcp"]'
            ) from None

    def close(self) -> None:
        if self._own is not None:
            self._own.close()
            self._own = None
