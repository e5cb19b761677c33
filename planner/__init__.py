"""The planner: what a collective will cost on the links that are there, and which algorithm to take."""

from __future__ import annotations

from .across import choose_across
from .choice import LOOPBACK, Choice, Links, choose, choose_on_devices, choose_through_windows

__all__ = ["LOOPBACK", "Choice", "Links", "choose", "choose_across", "choose_on_devices", "choose_through_windows"]
