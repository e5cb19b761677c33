"""What is done about a finding, as far as the user lets it be done: report, avoid, or evict.

    finding                          report    avoid                                   evict
    -------------------------------  --------  --------------------------------------  -----------------------------------------
    slow link, sender or receiver    (said)    the planner takes these links to be     a member is set aside; a link is avoided
                                               as slow as they were found
    slow or hanging member           (said)    as report: no route leads round a       the member is set aside
                                               member that computes slowly
    hanging link                     (said)    as report: the membership's own rules   as avoid
                                               give it up and find another way
    corruption                       (said)    as report                               the member is set aside

Who is set aside is out for `Policy.cooldown` seconds, twice as long each further time, `Policy.longest` at most; then it may
join again like anybody else. A group never loses its last `Policy.least` members that way, nor more than one within
`Policy.pause`: a diagnosis that is wrong, or a fault that all have in common, must not take a group apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from .finding import CulpritKind, Finding, Syndrome


class Action(StrEnum):
    REPORT = "report"
    AVOID = "avoid"
    EVICT = "evict"


@dataclass(frozen=True)
class Policy:
    """``confidence``: of a finding that is acted upon; what is less is reported only. Times in seconds."""

    slow: Action = Action.AVOID
    hang: Action = Action.REPORT
    corruption: Action = Action.REPORT
    confidence: float = 0.7
    cooldown: float = 60.0
    longest: float = 3600.0
    pause: float = 10.0
    least: int = 2

    def __post_init__(self) -> None:
        if not 0.0 <= self.confidence <= 1.0:
            raise ValueError(f"confidence must be from 0 to 1, not {self.confidence!r}")
        if not 0.0 < self.cooldown <= self.longest:
            raise ValueError(f"cooldown must be positive and at most {self.longest:g} s, not {self.cooldown!r}")
        if self.least < 1 or self.pause < 0.0:
            raise ValueError(f"least must be 1 or more and pause 0 or more, not {self.least!r} and {self.pause!r}")

    def action(self, finding: Finding) -> Action:
        """What the user wants done about such a finding."""
        if finding.confidence < self.confidence:
            return Action.REPORT
        if finding.syndrome is Syndrome.CORRUPTION:
            return self.corruption
        if finding.syndrome in (Syndrome.COMMUNICATION_HANG, Syndrome.NON_COMMUNICATION_HANG):
            return self.hang
        return self.slow


@dataclass(frozen=True)
class Avoid:
    """Links, by source and target, and how many times as slow as measured they are to be taken for; -1 stands for all others."""

    finding: Finding
    links: Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class Evict:
    """``cooldown``: seconds for which the member is not let in again."""

    finding: Finding
    member: int
    cause: str
    cooldown: float


Measure = Avoid | Evict
EVERYBODY = -1


@dataclass
class Practice:
    """Applies a `Policy` to one group's findings, one after the other."""

    policy: Policy = field(default_factory=Policy)
    _times: dict[str, int] = field(default_factory=dict)  # how often each was set aside, by name
    _evicted_at: float = float("-inf")

    def measures(self, now: float, finding: Finding, present: Sequence[int], names: Mapping[int, str]) -> list[Measure]:
        """What to do about a new finding; ``present``: the members, of whom ``names`` has the names."""
        action, culprit = self.policy.action(finding), finding.culprit
        if action is Action.REPORT or not set(culprit.members) <= set(present):
            return []
        if culprit.kind is CulpritKind.LINK or action is Action.AVOID:
            return self._avoid(finding)
        return self._evict(now, finding, present, names)

    def _avoid(self, finding: Finding) -> list[Measure]:
        if finding.syndrome is not Syndrome.COMMUNICATION_SLOW or finding.factor <= 1.0:
            return []
        kind, members = finding.culprit.kind, finding.culprit.members
        if kind is CulpritKind.LINK:
            return [Avoid(finding, {(members[0], members[1]): finding.factor})]
        if kind is CulpritKind.SENDER:
            return [Avoid(finding, {(members[0], EVERYBODY): finding.factor})]
        if kind is CulpritKind.RECEIVER:
            return [Avoid(finding, {(EVERYBODY, members[0]): finding.factor})]
        return []

    def _evict(self, now: float, finding: Finding, present: Sequence[int], names: Mapping[int, str]) -> list[Measure]:
        member = finding.culprit.members[0]
        if len(present) <= self.policy.least or now - self._evicted_at < self.policy.pause:
            return []
        name = names.get(member, str(member))
        times = self._times[name] = self._times.get(name, 0) + 1
        self._evicted_at = now
        cooldown = min(self.policy.longest, self.policy.cooldown * 2.0 ** min(times - 1, 30))
        return [Evict(finding, member, f"{finding.syndrome}: {finding.evidence}", cooldown)]
