"""The engine: runs schedules on transports, commits what they computed, and settles what a failure leaves open."""

from __future__ import annotations

from .events import EventLog
from .group import STATE_GID, WORLD_GID, Group
from .handle import Handle
from .operation import Operation
from .original import Original
from .request import Request, request
from .session import Session
from .staged import PinnedMemory, Staged
from .strided import Strided
from .surface import AnyGroup, AnySession

__all__ = [
    "STATE_GID",
    "WORLD_GID",
    "AnyGroup",
    "AnySession",
    "EventLog",
    "Group",
    "Handle",
    "Operation",
    "Original",
    "PinnedMemory",
    "Request",
    "Session",
    "Staged",
    "Strided",
    "request",
]
