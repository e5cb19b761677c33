"""A method of low-communication training as a small state machine over numpy arrays; `training` drives it over a group.

Its one event is the end of an inner step. It answers with instructions: *launch* the reduction of a bucket, or *await* one that
is under way and apply the average. It knows no communicator, clock or thread. What it holds in `state` is the same bits at every
member once what is in flight has arrived, so that a newcomer who is given it goes on as the others do.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .flat import Array, FlatParameters

IDLE = -1


@dataclass(frozen=True)
class Launch:
    """Fill bucket ``slot`` (`Method.fill`), then average it over the members, in the background."""

    slot: int


@dataclass(frozen=True)
class Await:
    """When bucket ``slot`` holds the average, apply it (`Method.apply`)."""

    slot: int


Instruction = Launch | Await


class Method(ABC):
    """What all methods have in common: a count of inner steps, and buckets, each idle or in flight.

    :param params: name -> writable numpy array of a real floating dtype; they are read and written where they are. Torch
        parameters on a CPU: ``{name: p.detach().numpy() for name, p in model.named_parameters()}``.
    :param sizes: elements of each bucket.
    :param settings: what all members must have chosen alike; together with the parameters' layout it is compared in `check`.
    """

    def __init__(
        self, params: Mapping[str, Array], sizes: Sequence[int], dtype: npt.DTypeLike, settings: Sequence[object]
    ):
        self._clock = np.zeros(1, np.int64)
        self._launched = np.full(len(sizes), IDLE, np.int64)
        self._buckets: list[Array] = [np.zeros(size, dtype) for size in sizes]
        chosen = f"{type(self).__name__} {list(settings)!r} {FlatParameters(params).fingerprint}"
        self._fingerprint = int.from_bytes(hashlib.sha256(chosen.encode()).digest()[:8], "little") >> 1
        self._layout = np.array([self._fingerprint], np.int64)
        self.state: dict[str, Array] = {"clock": self._clock, "launched": self._launched, "layout": self._layout}
        self.state |= {f"bucket.{slot}": bucket for slot, bucket in enumerate(self._buckets)}

    @property
    def steps(self) -> int:
        """Inner steps that are done; a newcomer has the group's count."""
        return int(self._clock[0])

    @property
    def in_flight(self) -> list[int]:
        """Slots that were launched and not yet applied, in the order in which they were launched."""
        under_way = [slot for slot, at in enumerate(self._launched) if at != IDLE]
        return sorted(under_way, key=lambda slot: (self._launched[slot], slot))

    @property
    def bucket_bytes(self) -> list[int]:
        """Size of each bucket, as it is without a codec."""
        return [bucket.nbytes for bucket in self._buckets]

    def advance(self) -> list[Instruction]:
        """An inner step has been taken. Returns what to do before the next, in this order."""
        self._clock += 1
        return self._due(self.steps)

    def fill(self, slot: int, members: int = 1) -> Array:
        """What to average for ``slot`` over as many ``members``: belongs to the reduction until it has ended."""
        if self._launched[slot] != IDLE:
            raise RuntimeError(
                f"bucket {slot} is in flight since step {self._launched[slot]}; it cannot be filled again"
            )
        bucket = self._buckets[slot]
        self._fill(slot, bucket, members)
        self._launched[slot] = self.steps
        return bucket

    def bucket(self, slot: int) -> Array:
        return self._buckets[slot]

    def apply(self, slot: int) -> None:
        """Bucket ``slot`` holds the average over the members."""
        if self._launched[slot] == IDLE:
            raise RuntimeError(f"bucket {slot} was never launched")
        self._apply(slot, self._buckets[slot])
        self._launched[slot] = IDLE

    def check(self) -> None:
        """Raises ValueError where the group, whose state was just taken over, has chosen otherwise than this peer."""
        if self._layout[0] != self._fingerprint:
            self._layout[0] = self._fingerprint
            raise ValueError(
                f"the group trains with another method, other settings of it, or a model of other names, shapes or dtypes "
                f"than this peer's {type(self).__name__}"
            )

    @abstractmethod
    def restore(self) -> None:
        """Parameters become the common ones: what inner steps did since the last launch is dropped."""

    @abstractmethod
    def _due(self, step: int) -> list[Instruction]: ...

    @abstractmethod
    def _fill(self, slot: int, bucket: Array, members: int) -> None: ...

    @abstractmethod
    def _apply(self, slot: int, mean: Array) -> None: ...


def checked_every(every: int, name: str = "every") -> int:
    """Inner steps between two launches, or what else ``name`` says. Raises ValueError unless it is a whole number, 1 or more."""
    if not isinstance(every, int | np.integer) or isinstance(every, bool) or every < 1:
        raise ValueError(f"{name} must be a number of inner steps, 1 or more, not {every!r}")
    return int(every)
