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
NEAR_BYTES = 1 << 17  # of a message, beyond which a byte is no longer found in a small cache
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
    """Seconds of each call, each run, each byte up to `NEAR_BYTES`, and each beyond. Raises ValueError for what cannot be."""

    call: float
    run: float
    near: float
    far: float

    def __post_init__(self) -> None:
        limits = {"call": MAX_SECONDS, "run": MAX_SECONDS, "near": MAX_BYTE_SECONDS, "far": MAX_BYTE_SECONDS}
        for name, most in limits.items():
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= most:  # NaN is not, either
                raise ValueError(f"{name} cannot take {value!r} s: a number from 0 to {most} is expected")
        if not self.call + self.run + self.near + self.far:
            raise ValueError("something must cost something")

    def seconds(self, nbytes: int, runs: int) -> float:
        calls, _, near, far = _counts(nbytes, runs)
        return calls * self.call + runs * self.run + near * self.near + far * self.far


def _counts(nbytes: int, runs: int) -> tuple[int, int, int, int]:
    """How often each part of a cost is due."""
    return math.ceil(nbytes / CALL_BYTES), runs, min(nbytes, NEAR_BYTES), max(0, nbytes - NEAR_BYTES)


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
    seen = np.array([_counts(nbytes, runs) for nbytes, runs, _ in rows], np.float64)
    seen /= np.array([[sample.seconds] for sample in rows])
    kept = list(range(seen.shape[1]))
    while True:  # a part that comes out negative is none
        found, *_ = np.linalg.lstsq(seen[:, kept], np.ones(len(rows)), rcond=None)
        if len(kept) == 1 or found.min() >= 0:
            break
        del kept[int(found.argmin())]
    values = dict(zip(kept, found.tolist(), strict=True))
    return Cost(*(values.get(index, 0.0) for index in range(seen.shape[1])))
