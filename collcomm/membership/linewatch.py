"""What a peer's connection attempts meet at the coordinator's address, in words; and whether it is the credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import zmq

from ..errors import AuthenticationFailed
from .credentials import KEYS_VARIABLE, SECRET_VARIABLE, PeerCredentials
from .strangers import MECHANISM_MISMATCH

HUNG_UP_TIMES = 2  # once may be a coordinator that is being stopped


class LineWatch:
    """Fed with the monitor events of a peer's socket."""

    EVENTS = (
        zmq.EVENT_CONNECTED
        | zmq.EVENT_CONNECT_RETRIED
        | zmq.EVENT_HANDSHAKE_SUCCEEDED
        | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        | zmq.EVENT_DISCONNECTED
    )

    def __init__(self, where: str, credentials: PeerCredentials | None):
        self.met = "nothing listens there"
        self._where = where
        self._credentials = credentials
        self._hung_up = 0

    def stands_by(self, leader: str) -> None:
        """A coordinator is there that does not lead; ``leader``: who does, if it knows."""
        self.met = f"it stands by and does not lead{f' ({leader} does)' if leader else ''}"

    def heard(self, event: Mapping[str, Any]) -> AuthenticationFailed | None:
        """An error when it is clear that no further attempt will be let in."""
        kind = event["event"]
        if kind == zmq.EVENT_CONNECTED:
            self.met = "something accepts connections there but says nothing"
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._hung_up = 0
            self.met = "it accepted the connection and then fell silent"
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            return self._refused("its key is not among those that the coordinator knows")
        elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL and event["value"] == MECHANISM_MISMATCH:
            return self._other_mechanism()
        elif kind in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL):
            self.met = "what listens there is not a collcomm coordinator (another protocol: wrong port?)"
            self._hung_up += 1
            if self._credentials is not None and self._hung_up >= HUNG_UP_TIMES:
                return self._refused("the coordinator has another secret or other keys, or is none (wrong port?)")
        return None

    def _other_mechanism(self) -> AuthenticationFailed:
        if self._credentials is not None:
            return self._refused(
                "the coordinator has no protection: start it with the same secret or with keys, or join without"
            )
        return AuthenticationFailed(
            f"the coordinator at {self._where} wants to know who joins: give the secret= ({SECRET_VARIABLE}) or the "
            f"keys= ({KEYS_VARIABLE}) that go with it"
        )

    def _refused(self, why: str) -> AuthenticationFailed:
        assert self._credentials is not None
        return AuthenticationFailed(f"the coordinator at {self._where} refused {self._credentials.source}: {why}")
