"""The coordinator's process as a relay, for members that no third member can join: a port of its own, `transports.relay` behind.

A member greets as it would a relay that is a member, with the group's number at this port in place of the epoch, and with a
key that its views carry. Only who is in the present view is let in.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping

from ..transports.door import Door, Line, Standing
from ..transports.frames import Greeting
from ..transports.relay import Relay
from ..types import COORDINATOR

BACKLOG = 256


class RelayBooth:
    """Listens on ``host``; ``port`` 0 takes a free one. ``keys(number, members)``: of those members of a group who may come in.
    Raises OSError."""

    def __init__(self, host: str, port: int, keys: Callable[[int, Iterable[int]], Mapping[int, bytes]]):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server(("" if host == "*" else host, port), family=family, backlog=BACKLOG)
        self.port: int = listener.getsockname()[1]
        self._keys = keys
        self._relay = Relay()
        self._door = Door(listener, self._standing, self._welcome)

    def close(self) -> None:
        self._door.close()
        self._relay.close()

    def _standing(self, greeting: Greeting) -> Standing:
        keys = self._keys(greeting.epoch, (greeting.caller, greeting.onward))
        return Standing(COORDINATOR, greeting.epoch, keys)

    def _welcome(self, greeting: Greeting, line: Line) -> None:
        assert isinstance(line, socket.socket)
        if greeting.onward:
            self._relay.take(greeting, line)
        else:
            line.close()
