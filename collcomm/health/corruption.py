"""A wrong result: whose fault it is, and how that is told to people, to programs and to the diagnosis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..types import Member
from .audit import Cause
from .finding import Culprit, CulpritKind, Finding, Syndrome


@dataclass(frozen=True)
class Blamed:
    rank: int
    member: Member
    cause: Cause

    def __str__(self) -> str:
        return f"rank {self.rank}, {self.member}"


@dataclass(frozen=True)
class Corruption:
    """Of the operation ``seq`` of the communicator ``gid``, in words ``call``. ``blamed``: one rank, or several that each did
    something wrong; where ``certain`` is false, those among whom the one is. ``confidence``: 0 to 1, in each that is named.
    ``evidence``: what was compared."""

    call: str
    gid: int
    seq: int
    epoch: int
    blamed: tuple[Blamed, ...]
    certain: bool
    confidence: float
    evidence: str

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(each.rank for each in self.blamed)

    @property
    def text(self) -> str:
        if self.certain:
            who = "; ".join(f"{each}: {each.cause.text}" for each in self.blamed)
        else:
            who = f"one of {'; '.join(map(str, self.blamed))}: which one cannot be told"
        return f"{self.call}: {who} ({self.evidence})"

    @property
    def advice(self) -> str:
        changed = [each for each in self.blamed if each.cause is Cause.CONTRIBUTION]
        inputs = f"the input of {', '.join(map(str, changed))} is not what it was" if changed else "inputs are intact"
        what = "set that peer aside" if self.certain else "check these machines' memory and processors"
        return f"{inputs}, results are not to be used; {what}, then call again with good inputs"

    def findings(self, at: float) -> list[Finding]:
        """``at``: seconds, on the clock of whoever asks."""
        groups = [(each,) for each in self.blamed] if self.certain else [self.blamed]
        return [self._finding(group, at) for group in groups]

    def _finding(self, group: Sequence[Blamed], at: float) -> Finding:
        culprit = Culprit(CulpritKind.RANK, tuple(each.member.id for each in group))
        evidence = f"{self.call}: {group[0].cause.text} ({self.evidence})"
        return Finding(Syndrome.CORRUPTION, culprit, at, evidence, self.confidence, (self.gid, self.seq))
