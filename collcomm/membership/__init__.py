"""Membership: who is in the group. Pure state machines, and the drivers that run them on ZeroMQ."""

from __future__ import annotations

from .agent import Agent, Lines, Observer, Welcome
from .coordinator import CoordinatorMachine
from .group import GroupMachine
from .lines import ZmqLines
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
    "CoordinatorMachine",
    "GroupMachine",
    "Limits",
    "Lines",
    "Observer",
    "PeerMachine",
    "Welcome",
    "ZmqLines",
    "run_coordinator",
]
