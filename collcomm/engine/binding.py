"""Brings the windows of a view's members together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from ..errors import UnsupportedTransport
from ..transports.base import Link, LinkBroken, Transport, Window
from ..transports.device import LETTER_BYTES, BadLetter, Device, OwnDeviceWindow, open_window
from ..types import View
from .attempt import Attempt
from .memory import HOST, Memory
from .windowplan import DEVICE_WINDOW_BYTES, WINDOW_BYTES
from .windows import SharedWindows

WINDOW_LINKS, DEVICE_LINKS = 2, 3  # purposes of links, as in a greeting
DEATH_SECONDS = 0.5
MOST_SHARED = 64  # members; more have too little room in each other's windows


class WindowBinding:
    """A communicator's own window, made when it is first needed, and those of the others, for one view after the other.

    Links for windows carry nothing else, and tell when their other end dies. ``traffic``: where bytes are counted.
    """

    purpose = WINDOW_LINKS
    place: Memory = HOST

    def __init__(self, gid: int, transport: Transport, traffic: Counter[str]):
        self.shared: SharedWindows | None = None  # in the present view, once they are bound
        self._gid = gid
        self._transport = transport
        self._traffic = traffic
        self._own: Window | None = None
        self._others: dict[int, tuple[Link, Window]] = {}  # by member

    def bind(self, view: View, rank: int, attempt: Attempt) -> SharedWindows:
        """Raises Halted, LinkBroken, UnsupportedTransport (no memory)."""
        if self._own is None:
            self._own = self._make()
        self._others = {member: found for member, found in self._others.items() if member in view.ids}
        links: dict[int, Link] = {}
        windows: dict[int, Window] = {}
        for peer, member in enumerate(view.members):
            if peer == rank:
                continue
            check = partial(attempt.idle, (peer,))
            link = links[peer] = self._transport.link(self._gid, self.purpose, member, check)
            known = self._others.get(member.id)
            if known is None or known[0] is not link:  # another link: the other end, too, exchanges windows anew
                known = self._others[member.id] = link, self._exchange(link, check)
            windows[peer] = known[1]
        alive = lambda peer: links[peer].streams[0].check_open()  # noqa: E731
        shared = SharedWindows(self._own, windows, rank, alive, self._traffic, self.place)
        shared.open(attempt)
        self.shared = shared
        return shared

    def unbind(self) -> None:
        """The view has changed."""
        self.shared = None

    def close(self) -> None:
        self.shared = None
        self._others.clear()
        if self._own is not None:
            self._own.close()
            self._own = None

    def _make(self) -> Window:
        return self._host_window(WINDOW_BYTES)

    def _exchange(self, link: Link, check: Callable[[], None]) -> Window:
        assert self._own is not None
        return self._transport.exchange(link, self._own, check)

    def _host_window(self, nbytes: int) -> Window:
        try:
            return self._transport.make_window(nbytes)
        except OSError as error:
            raise UnsupportedTransport(
                f"no memory for a window of {nbytes} bytes: {error.strerror}; this peer has left the group, "
                f'free some or join again with transports=["tcp"]'
            ) from None


def _until_seen_dead(link: Link, check: Callable[[], None]) -> None:
    """What belongs to a process goes at different moments of its death. Raises LinkBroken, Halted, or returns if it lives."""
    deadline = time.monotonic() + DEATH_SECONDS
    while time.monotonic() < deadline:
        link.streams[0].check_open()
        check()
        time.sleep(DEATH_SECONDS / 100)


class DeviceBinding(WindowBinding):
    """The same with windows in the memory of devices."""

    purpose = DEVICE_LINKS

    def __init__(self, gid: int, transport: Transport, traffic: Counter[str], device: Device):
        super().__init__(gid, transport, traffic)
        self.place = self._device = device

    def _make(self) -> Window:
        return OwnDeviceWindow(self._device, self._host_window(LETTER_BYTES), DEVICE_WINDOW_BYTES)

    def _exchange(self, link: Link, check: Callable[[], None]) -> Window:
        assert isinstance(self._own, OwnDeviceWindow)
        host = self._transport.exchange(link, self._own.host, check)
        try:
            return open_window(self._device, host, DEVICE_WINDOW_BYTES)
        except BadLetter as error:
            raise LinkBroken(link.member, "closed", f"no window came: {error}") from None
        except UnsupportedTransport:
            _until_seen_dead(link, check)
            raise
