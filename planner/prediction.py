"""What a simulation says of a collective."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Load:
    """``share``: of the resource's capacity that was used while the collective lasted."""

    resource: int
    nbytes: float
    busy: float
    share: float


@dataclass(frozen=True)
class Stuck:
    rank: int
    why: str


@dataclass(frozen=True)
class Prediction:
    """``seconds``: until the last rank is done, infinite if one never is; ``finish``: of each rank; ``carried`` and ``busy``:
    bytes that passed each resource, and seconds for which any did; ``events``: that it took to work this out; ``exact``:
    whether all transfers had their max-min fair rates; ``stuck``: who never finishes (the first 64)."""

    seconds: float
    finish: tuple[float, ...]
    carried: tuple[float, ...]
    busy: tuple[float, ...]
    capacities: tuple[float, ...]
    messages: int
    events: int
    exact: bool
    stuck: tuple[Stuck, ...] = ()

    def busiest(self, count: int = 10) -> list[Load]:
        """The resources used most, by share of their capacity, the busiest first."""
        lasted = (
            self.seconds
            if self.seconds < float("inf")
            else max((t for t in self.finish if t < float("inf")), default=0)
        )
        loads = [
            Load(resource, nbytes, self.busy[resource], share_of(nbytes, self.capacities[resource], lasted))
            for resource, nbytes in enumerate(self.carried)
            if nbytes > 0.0
        ]
        return sorted(loads, key=lambda load: (-load.share, load.resource))[:count]


def share_of(nbytes: float, capacity: float, seconds: float) -> float:
    """Of what ``capacity`` carries in ``seconds``."""
    return nbytes / (capacity * seconds) if capacity > 0.0 and seconds > 0.0 else 0.0
