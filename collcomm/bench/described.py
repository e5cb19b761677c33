"""A laboratory as the planner's simulator sees it: what is true of it, as a network."""

from __future__ import annotations

from collections.abc import Sequence

from ..laboratory import Description
from ..planner.choice import LOOPBACK
from ..planner.measured import OVERHEAD

KERNEL_SECONDS = (
    60e-6  # one way between two namespaces, besides what the laboratory adds: two stacks, and a process that wakes
)


class DescribedNetwork:
    """A `planner.network.Network` of the hosts of a laboratory, one rank on each. Rates are of payload."""

    overhead = OVERHEAD
    compute = LOOPBACK.compute

    def __init__(self, description: Description):
        self.n = description.hosts
        self.hosts = tuple(range(self.n))
        self.sites = description.sites
        share = description.payload_share
        names = list(description.capacities)
        number = {name: place for place, name in enumerate(names)}
        self.capacities: Sequence[float] = tuple(description.capacities[name] * share for name in names)
        self._paths = [
            [tuple(number[name] for name in description.paths[s][t]) for t in range(self.n)] for s in range(self.n)
        ]
        self._latency = description.latency

    def latency(self, source: int, target: int) -> float:
        return self._latency[source][target] + KERNEL_SECONDS

    def path(self, source: int, target: int) -> tuple[int, ...]:
        return self._paths[source][target]
