"""What it costs to send or receive a layout in each of three ways, and which is the cheapest.

Seconds are taken as linear: so many for each call, each run, each byte. Coefficients come from measurements (`fit`), each way and
direction on its own; `tuning` makes them. The ends of a connection choose each for itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

CALL_BYTES = 1 << 18  # what about one call of the system moves
MAX_SECONDS = 1e-2  # of a call or a run; more is no measurement
MAX_BYTE_SECONDS = 1e-6


class Method(StrEnum):
    DIRECT = "direct"  # one row, as it lies
    GATHER = "gather"  # many runs in one call of the system
    PACK = "pack"  # into one row first, or from one


class Direction(StrEnum):
    SEND = "send"
    RECEIVE = "receive"


class Sample(NamedTuple):
    """A measurement: ``nbytes`` in ``runs`` took ``seconds``."""

    nbytes: int
    runs: int
    seconds: float


@dataclass(frozen=True)
class Cost:
    """Seconds of each call, each run, and each byte. Raises ValueError for what cannot be."""

    call: float
    run: float
    byte: float

    def __post_init__(self) -> None:
        for value, most in ((self.call, MAX_SECONDS), (self.run, MAX_SECONDS), (self.byte, MAX_BYTE_SECONDS)):
            if not isinstance(value, int | float) or not 0 <= value <= most:  # NaN is not, either
                raise ValueError(f"{value!r} is no number of seconds from 0 to {most}")
        if not self.call + self.run + self.byte:
            raise ValueError("nothing costs nothing")

    def seconds(self, nbytes: int, runs: int) -> float:
        return math.ceil(nbytes / CALL_BYTES) * self.call + runs * self.run + nbytes * self.byte


@dataclass(frozen=True)
class Model:
    """The costs of each method in each direction."""

    costs: Mapping[Direction, Mapping[Method, Cost]]

    def seconds(self, method: Method, nbytes: int, runs: int, direction: Direction = Direction.SEND) -> float:
        """What ``nbytes`` in ``runs`` are expected to take."""
        return self.costs[direction][method].seconds(nbytes, runs)

    def choose(self, nbytes: int, runs: int, direction: Direction = Direction.SEND) -> Method:
        """The cheapest way."""
        if runs < 2:
            return Method.DIRECT
        costs = self.costs[direction]
        gather, pack = (costs[method].seconds(nbytes, runs) for method in (Method.GATHER, Method.PACK))
        return Method.GATHER if gather < pack else Method.PACK

    def to_json(self) -> dict[str, Any]:
        return {
            direction.value: {method.value: asdict(cost) for method, cost in costs.items()}
            for direction, costs in self.costs.items()
        }

    @classmethod
    def from_json(cls, data: Any) -> Model:
        """What `to_json` made. Raises ValueError for anything else."""
        try:
            return cls(
                {
                    direction: {method: Cost(**data[direction.value][method.value]) for method in Method}
                    for direction in Direction
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a model of transfers: {error!r}") from None


def fit(samples: Iterable[Sample]) -> Cost:
    """The cost that comes nearest to the measurements, by relative error. Raises ValueError where they make no sense."""
    rows = list(samples)
    if any(not sample.seconds > 0 for sample in rows):
        raise ValueError("a measurement took no time at all")
    seen = np.array([(math.ceil(nbytes / CALL_BYTES), runs, nbytes) for nbytes, runs, _ in rows], np.float64)
    seen /= np.array([[sample.seconds] for sample in rows])
    kept = [0, 1, 2]
    while True:  # a part that comes out negative is none
        found, *_ = np.linalg.lstsq(seen[:, kept], np.ones(len(rows)), rcond=None)
        if len(kept) == 1 or found.min() >= 0:
            break
        del kept[int(found.argmin())]
    values = dict(zip(kept, found.tolist(), strict=True))
    return Cost(*(values.get(index, 0.0) for index in range(3)))
