"""The view change: one round in which all survivors freeze, say how far they got, and are told what that decides.

Why the outcome is the same for everybody. A survivor's report is frozen when it is sent, so the coordinator decides on
facts. It decides alone and once per epoch, and tells all survivors the same. See `collcomm.engine.progress` for
why ``decided = min(complete)`` neither loses an operation that somebody has returned, nor keeps one that somebody could
not finish.
An operation of which all members say that they called something else is not done, although each may be complete at it: one
without data is so from its beginning. Nobody has committed it. Whoever commits an operation has heard of all members, of each by
a chain of frames that bear its fingerprint, and whoever gets one with another fingerprint stops, and passes nothing on. That they
speak of this operation is plain when nobody has entered a later one.
When a survivor dies during the round, the round begins anew with the others: each halt names its heirs, those whose reports
decide, and a peer that has answered it knows them. So a coordinator that takes over knows whom a lost decision was made by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..types import GroupReport, Outcome, Verdict

Groups = Mapping[int, GroupReport]


@dataclass
class Round:
    """A view change under way. ``verdicts``: operations that are to fail, as (gid, seq, why)."""

    number: int
    states: dict[int, Groups] = field(default_factory=dict)
    verdicts: list[tuple[int, int, Verdict]] = field(default_factory=list)
    broken: set[tuple[int, int]] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)  # how members were lost in this round, in words
    began: float = 0.0

    def complete(self, survivors: Iterable[int]) -> bool:
        return all(member in self.states for member in survivors)


def contradictions(round: Round, survivors: set[int]) -> set[int]:
    """Members whose report cannot be true beside the others': each operation needs everybody, so nobody is more than one
    ahead of anybody. Of those ahead and those behind, the fewer are not believed."""
    found: set[int] = set()
    for gid in {gid for member in survivors for gid in round.states[member]}:
        complete = {m: round.states[m][gid].complete for m in survivors if gid in round.states[m]}
        ahead = {member for member, value in complete.items() if value > min(complete.values()) + 1}
        behind = {member for member, value in complete.items() if value < max(complete.values()) - 1}
        found |= behind if len(behind) < len(ahead) else ahead
    return found


def decide(
    round: Round, survivors: set[int], raise_on_loss: bool, floor: Mapping[int, int] | None = None
) -> dict[int, Outcome]:
    """The outcome of every communicator that a survivor has reported.

    ``floor``: what the last view settled for each communicator. A member that has not made a communicator yet reports
    nothing of it, and has completed just that.
    """
    outcomes: dict[int, Outcome] = {}
    states = {member: round.states[member] for member in survivors}
    for gid in sorted({gid for groups in states.values() for gid in groups}):
        reports = {member: groups[gid] for member, groups in states.items() if gid in groups}
        members = {member for report in reports.values() for member in report.members}
        settled = (floor or {}).get(gid, 0)
        complete = {m: reports[m].complete if m in reports else settled for m in members & survivors | set(reports)}
        decided = min(complete.values())
        entered = max(report.entered for report in reports.values())
        assert all(value <= decided + 1 for value in complete.values()), (gid, reports)
        outcomes[gid] = _outcome(gid, decided, entered, round, raise_on_loss and not members <= survivors)
    return outcomes


def _outcome(gid: int, decided: int, entered: int, round: Round, raise_on_loss: bool) -> Outcome:
    for verdict_gid, seq, verdict in round.verdicts:
        if verdict_gid != gid:
            continue
        if verdict.differ and seq == decided == entered:
            decided -= 1
        if seq > decided:
            return Outcome(decided, max(entered, seq), verdict)
    if raise_on_loss and round.lost and entered > decided:
        return Outcome(decided, entered, Verdict("lost", "; ".join(round.lost)))
    return Outcome(decided, decided)
