"""Membership: who is in the group. Pure state machines, and the drivers that run them on ZeroMQ."""

from __future__ import annotations

from .agent import Agent, Lines, Observer, Welcome
from .coordinator import CoordinatorMachine
from .credentials import peer_credentials, read_secret
from .group import GroupMachine
from .journal import Journal
from .lines import ZmqLines
from .peer import PeerMachine
from .presets import LAN, LOCAL, PRESETS, WAN, Limits
from .server import Coordinator, serve
from .store import Deposed, MemoryStore, Store
from .watching import GroupLine, Hail, Watch

__all__ = [
    "LAN",
    "LOCAL",
    "PRESETS",
    "WAN",
    "Agent",
    "Coordinator",
    "CoordinatorMachine",
    "Deposed",
    "GroupLine",
    "GroupMachine",
    "Hail",
    "Journal",
    "Limits",
    "Lines",
    "MemoryStore",
    "Observer",
    "PeerMachine",
    "Store",
    "Watch",
    "Welcome",
    "ZmqLines",
    "peer_credentials",
    "read_secret",
    "serve",
]
