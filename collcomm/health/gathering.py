"""Operations of which all members have told: samples of many, put together by communicator, view and sequence number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .observation import Observation, Sample

MOST_PENDING = 8192  # operations of which not all have told yet
PATIENCE = 15.0  # seconds until the rest is not waited for


class Class(NamedTuple):
    """Operations that can be compared: ``size`` is the power of two below which their bytes are."""

    gid: int
    kind: str
    size: int

    def __str__(self) -> str:
        return f"{self.kind} of {_bytes(1 << self.size)}" if self.size else self.kind


def class_of(gid: int, kind: str, nbytes: int) -> Class:
    return Class(gid, kind, nbytes.bit_length())


@dataclass(slots=True)
class Gathered:
    """``told``: by member, the seconds that it took there and those of them in which the member waited."""

    gid: int
    seq: int
    kind: str
    nbytes: int
    first_at: float
    told: dict[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def cls(self) -> Class:
        return class_of(self.gid, self.kind, self.nbytes)

    @property
    def took(self) -> float:
        """At the member that came first."""
        return max(took for took, _ in self.told.values())


class Gathering:
    def __init__(self) -> None:
        self._pending: dict[tuple[int, int], Gathered] = {}

    def clear(self) -> None:
        self._pending.clear()

    def add(self, observation: Observation, expected: Mapping[int, frozenset[int]]) -> Iterator[Gathered]:
        """What ``observation`` completes. ``expected``: by communicator, who has to have told."""
        pending = self._pending
        for sample in observation.samples:
            if sample.epoch != observation.epoch:
                continue  # of a view that is over
            key = (sample.gid, sample.seq)
            gathered = pending.get(key)
            if gathered is None:
                gathered = pending[key] = _begin(sample, observation.at)
            gathered.nbytes = max(gathered.nbytes, sample.nbytes)
            gathered.told[observation.member] = (sample.took, sample.waited)
            members = expected[sample.gid]
            if members and gathered.told.keys() >= members:
                del pending[key]
                yield gathered
        self._forget(observation.at)

    def _forget(self, now: float) -> None:
        while self._pending:
            key = next(iter(self._pending))
            if len(self._pending) <= MOST_PENDING and now - self._pending[key].first_at <= PATIENCE:
                return
            del self._pending[key]


def _begin(sample: Sample, at: float) -> Gathered:
    return Gathered(sample.gid, sample.seq, sample.kind, sample.nbytes, at)


def _bytes(number: int) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"up to {number} {unit}"
        number >>= 10
    return f"up to {number} TiB"
