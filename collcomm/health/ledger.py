"""Findings that hold: what is newly said, what is said again, what is over."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .finding import Culprit, Finding, Syndrome

Key = tuple[str, Culprit]


class Ledger:
    """A finding that nothing has spoken for during ``recovery`` seconds has ended."""

    def __init__(self, recovery: float):
        self._recovery = recovery
        self._open: dict[Key, Finding] = {}
        self._spoken_for: dict[Key, float] = {}
        self._ended: list[Finding] = []

    @property
    def holding(self) -> list[Finding]:
        """Oldest first, each as it was said first."""
        return list(self._open.values())

    def update(self, now: float, claims: Iterable[Finding]) -> list[Finding]:
        """Those of ``claims`` that are new."""
        new = []
        for claim in claims:
            key = self._said_as(claim)
            if key not in self._open:
                self._open[key] = claim
                new.append(claim)
            self._spoken_for[key] = now
        for key in [key for key, at in self._spoken_for.items() if now - at >= self._recovery]:
            self._end(key)
        return new

    def _said_as(self, claim: Finding) -> Key:
        """A link that hangs is the same one in both directions, whichever was said first."""
        turned = claim.syndrome, Culprit(claim.culprit.kind, claim.culprit.members[::-1])
        hangs = claim.syndrome is Syndrome.COMMUNICATION_HANG
        return turned if hangs and claim.key not in self._open and turned in self._open else claim.key

    def withdraw(self, keys: Iterable[Key]) -> None:
        """Better evidence says something else."""
        for key in keys:
            if key in self._open:
                self._end(key)

    def drop(self, ids: Collection[int]) -> None:
        """Only those in ``ids`` are members: of the others, nothing holds any more."""
        for key in [key for key in self._open if not set(key[1].members) <= set(ids)]:
            self._end(key)

    def _end(self, key: Key) -> None:
        self._ended.append(self._open.pop(key))
        del self._spoken_for[key]

    def take_ended(self) -> list[Finding]:
        ended, self._ended = self._ended, []
        return ended
