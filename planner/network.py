"""What the cost model knows of a network: latencies between ranks, and the resources that transfers share.

A *resource* is anything with a capacity in bytes/s that transfers occupy together: what a host sends, what it receives, a pair's
own limit, the trunk between two sites, a switch's uplink. Measured links (`measured`) and topology files (`topology`) both
come to this, so that one model costs schedules on either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Network(Protocol):
    """``n`` ranks; ``hosts``: a number for the host of each, equal for those that share one; ``capacities``: bytes/s, by
    resource; ``overhead``: seconds of a rank's own time for each message that it sends or receives; ``compute``: bytes/s at
    which a rank reduces."""

    n: int
    hosts: tuple[int, ...]
    capacities: Sequence[float]
    overhead: float
    compute: float

    def latency(self, source: int, target: int) -> float:
        """Seconds from the end of a message's sending to its end's arrival, when nothing else is on the way."""

    def path(self, source: int, target: int) -> tuple[int, ...]:
        """The resources, by number, that a transfer occupies while it lasts; alone, it has the least of their capacities."""
