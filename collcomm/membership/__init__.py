"""Membership: who is in the group. Pure state machines, and the drivers that run them on ZeroMQ."""

from __future__ import annotations

from .agent import Agent, Observer, Welcome
from .credentials import peer_credentials, read_secret
from .group import GroupMachine
from .peer import PeerMachine
from .presets import LAN, LOCAL, PRESETS, WAN, Limits
from .server import Coordinator, run_coordinator

__all__ = [
    "LAN",
    "LOCAL",
    "PRESETS",
    "WAN",
    "Agent",
    "Coordinator",
    "GroupMachine",
    "Limits",
    "Observer",
    "PeerMachine",
    "Welcome",
    "peer_credentials",
    "read_secret",
    "run_coordinator",
]
