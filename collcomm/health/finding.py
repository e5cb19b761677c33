"""What a diagnosis says: which syndrome, who is the culprit, by what evidence, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Syndrome(StrEnum):
    """The four of C4 (Dong et al. 2024), and wrong results."""

    COMMUNICATION_HANG = "communication hang"
    NON_COMMUNICATION_HANG = "non-communication hang"
    COMMUNICATION_SLOW = "communication slow"
    NON_COMMUNICATION_SLOW = "non-communication slow"
    CORRUPTION = "corruption"


class CulpritKind(StrEnum):
    LINK = "link"  # from the first member to the second, or both ways
    SENDER = "sender"  # what leaves a member
    RECEIVER = "receiver"  # what comes to a member
    RANK = "rank"  # a member itself


@dataclass(frozen=True)
class Culprit:
    """``members``: ids; two for a link, in the direction of the traffic that suffers."""

    kind: CulpritKind
    members: tuple[int, ...]


@dataclass(frozen=True)
class Finding:
    """``at``: seconds, on the clock of whoever diagnosed; ``since``: the operation from which on it holds (gid, seq), if known;
    ``factor``: how many times as long as usual; 0.0 for hangs. ``confidence``: 0 to 1."""

    syndrome: Syndrome
    culprit: Culprit
    at: float
    evidence: str
    confidence: float
    since: tuple[int, int] | None = None
    factor: float = 0.0

    @property
    def key(self) -> tuple[str, Culprit]:
        """Equal for findings that say the same."""
        return self.syndrome, self.culprit

    def row(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "syndrome": self.syndrome.value,
            "culprit": self.culprit.kind.value,
            "members": list(self.culprit.members),
            "at": self.at,
            "evidence": self.evidence,
            "confidence": round(self.confidence, 3),
            "since": None if self.since is None else list(self.since),
            "factor": round(self.factor, 3),
        }
