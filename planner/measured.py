"""What was measured of the links of a group, as rows that its members report and exchange."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinkRow:
    """One direction of a link between two members, by id. ``latency``: seconds one way; ``bandwidth``: bytes/s, reached with
    ``streams`` connections."""

    source: int
    target: int
    latency: float
    bandwidth: float
    streams: int = 1
