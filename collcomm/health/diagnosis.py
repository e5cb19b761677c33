"""From what all members tell of themselves to which of them, or which link, is sick: the diagnosis of C4D (Dong et al., 2024).

A pure state machine: observations, accusations, view changes and probes come in with their times, findings come out of `tick`.
The coordinator feeds it live; offline it is fed with the observations that a dump yields, and finds the members by itself.

    input                                       kept by      judged by       finding
    open operations, `entered`                  Company      hang            non-communication hang: a rank
    open operations, unacknowledged bytes,      Company,     hang            communication hang: a link, sender, receiver or rank
        accusations                             Breaks
    breaks of one link within a minute, or one  Breaks       breaks          communication hang: a link that comes and goes, or
    without an answer                                                        is cut; a rank that lost several
    seconds per byte of each flow, probes       Flows,       slowflows       communication slow: a link, sender, receiver or rank
                                                Probes
    samples: who took the least, who waited     Gathering    stragglers      non-communication slow: a rank
    seconds for which receivers took nothing    Flows        stragglers      non-communication slow: a rank

Why a healthy member is not accused:

1. *A hang* needs half of those who have called the operation to say, of their own clocks, that they have been in it for
   T_hang, so nobody is accused on the word of one. Who has not called it is believed only as of an observation made after
   T_hang, or after it has missed an observation while this side listened; in between nothing is said. Who has not called it
   because it is in another operation waits like everybody else, and is passed over, as is who completes others meanwhile.
   Ages begin anew in each view, so a view change is no hang. T_hang is ten times what the class usually takes including its
   jitter, at least `hang_least`; where no operation of the class was seen, `hang_unknown`. Where most are missing, nobody is
   singled out before three times as long, and then with little confidence.
2. *A link* is accused of a hang when all have called the operation, none has seen a byte move for T_hang (told by each, later
   than the last byte that anybody saw), and it is among the links with the best evidence at hand. Data that the receiver does
   not take is unacknowledged as well: such flows stand behind a fault, not at it, and are left out. So is what goes through a
   relay, where anything else stands still: one of the links that it takes does; and how often it breaks says nothing of its ends.
3. *Seconds per byte* are compared with the same flow under the same kind of work, sent to about as many at a time, so a link
   that is always slow is healthy; and with what all others fare at the moment, so load, a change of size or a slow network
   that all share is nobody's fault. Where the traffic goes another way, what is usual is at first assumed to be what was
   usual elsewhere, or what a probe has found; such a suspicion counts only if a new probe confirms it, and else is learnt as
   usual. A value counts only when the operations that it comes from were slow, by the median of them. A finding needs three
   of four such values, or two with a factor of four in a row, of at least three operations: one transfer that takes ten times
   as long, and through several observations, is over with its operation. Before anybody is named, probes of the link both
   ways, or of what the member sends and receives, tell a link from an end of it, and what is slow from what waits for late
   acknowledgements; over the link itself a probe may take long beside the run's traffic, and witnesses do if they are plain;
   where not all probes come, those that have, or traffic alone, make a guess, which is said to be one. Probes count for some
   seconds, against the best that was measured before. What is not used any more, since others were found to be faster, holds a
   finding up, but begins none. What flows to or from a member that comes late is left out: the time in which that takes nothing
   is counted as held, but not to the last bit.
4. *Lateness* needs 10 of 12 operations in which the member came later than usual for itself by 15% of the time between two
   operations, and by six spreads and at least half as late as the last, or by three spreads and last of all. What is usual is a
   median: half of what it learns may be wrong. It learns from a value only 12 operations later, and not while half of these
   deviate. If late arrivals are independent of each other and one operation in 20 has one (heavy tails), the chance that 10 of
   12 have is 6 x 10^-12; that some one of eight is the last in 10 of 12, however close the race, is 4 x 10^-7, of which the
   spreads and the 15% leave little. What is not independent are bursts: these have to last for half a second of operations.
   Work that always was uneven is usual; another size, another kind or another view begins anew; when more than a third come
   late at once, the work has changed, and nobody is sick. Lateness is relative to half of the others, so that one that comes
   early accuses nobody.
5. *The toll*, for members that are late to one operation of each step, is the same by spans of some seconds: five of six, each
   without the operation to which the member was late the most.
6. *Idle time*, and receivers that *hold* senders up, accuse only when nothing hangs, no flow is slow and nobody comes late, and
   operations take much longer than usual: for idle time 10 of 12 of them, with one member alone that is busy, and two more
   seconds in which flows could say that it is a link; for holding, at five of six observations of most flows to the member,
   which itself is not held up by another.

What these rules cannot tell: a member that is slow from the first operations of a view on is usual to them; one that is given
more work than others, with nothing else changed, comes late, and is said to; a fault that comes with a new plan, and with which
operations take no longer than they did with the old one, is not noticed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ..types import LinkRow
from .breaks import Breaks
from .company import Company
from .culprits import Edge
from .finding import Finding, Syndrome
from .flows import Flows
from .gathering import Gathered, Gathering, class_of
from .hang import Hangs
from .intake import believable
from .ledger import Ledger
from .limits import Limits
from .observation import Observation
from .pace import Pace
from .probes import Probes
from .slowflows import SlowFlows
from .stragglers import Stragglers

EVIDENCE = ("closed", "unacked")
MOST_UNKNOWN = 4  # links that have just come into use, of which probes are wanted at once


class Diagnosis:
    """All times are seconds on the clock of whoever diagnoses. Nothing that a member tells makes a method raise."""

    def __init__(self, limits: Limits | None = None):
        self.parameters = limits = limits or Limits()
        self._company = Company(limits)
        self._breaks = Breaks(limits)
        self._probes = Probes(limits)
        self._flows = Flows(limits, self._company, self._breaks, self._probes)
        self._pace = Pace(limits, self._company)
        self._gathering = Gathering()
        self._hangs = Hangs(limits, self._company, self._pace, self._flows, self._breaks)
        self._slow = SlowFlows(limits, self._company, self._flows, self._probes)
        self._stragglers = Stragglers(limits, self._company, self._pace, self._flows)
        self._ledger = Ledger(limits.recovery)
        self._unknown: list[Edge] = []

    @property
    def wanted(self) -> list[tuple[int, int]]:
        """Links (source, target) to probe now: their bandwidth, told to `measured`, tells a slow link from a slow end of it, or
        what is usual on a link that has just come into use."""
        return list(dict.fromkeys((*self._slow.wanted, *self._unknown)))

    @property
    def holding(self) -> list[Finding]:
        """What has been found and is not over, oldest first."""
        return self._ledger.holding

    def hang_after(self, gid: int, kind: str, nbytes: int) -> float:
        """T_hang: seconds after which such an operation counts as hung, by what was seen so far."""
        return self._pace.hang_after(class_of(gid, kind, nbytes))

    def observe(self, observation: Observation) -> list[Gathered]:
        """What a member tells of itself; ``observation.at``: when it came. What cannot be true, is old, or of nobody in the
        present view, is passed over. Returns the operations of which all members have told now."""
        believed = believable(observation)
        if believed is None or not self._company.admits(believed):
            return []
        self._company.hear(believed.at)
        if self._company.tell(believed):
            self._view_changed()
        work = self._pace.told(believed)
        completed = self._company.completed.get(believed.member, 0)
        self._flows.told(believed, work, completed, self._pace.is_slow(believed, work))
        expected = {gid: self._company.of(gid) for gid in {sample.gid for sample in believed.samples}}
        gathered = list(self._gathering.add(believed, expected))
        for operation in gathered:
            if len(operation.told) < 2:
                continue  # nobody to be compared with
            slow = self._pace.add(believed.at, operation)
            self._stragglers.add(believed.at, operation, slow)
        return gathered

    def accused(self, now: float, reporter: int, member: int, evidence: str) -> None:
        """``reporter`` says that its link to ``member`` is broken: "closed", or something is "unacked" for too long."""
        ids = self._company.ids
        if math.isfinite(now) and reporter in ids and member in ids and reporter != member and evidence in EVIDENCE:
            self._company.hear(now)
            self._breaks.accused(now, reporter, member, evidence)

    def relayed(self, pairs: Iterable[tuple[int, int]]) -> None:
        """From now on, only these are linked through a third: what breaks may be either half, or the relay."""
        self._breaks.relayed = frozenset((min(pair), max(pair)) for pair in pairs)

    def measured(self, now: float, rows: Iterable[LinkRow]) -> None:
        """Results of active probes, of these or other links."""
        ids = self._company.ids
        among = [row for row in rows if row.source in ids and row.target in ids]
        self._probes.measured(now, among, lambda edge: self._slow.suspects(now, edge))

    def view_changed(self, now: float, epoch: int, ids: Iterable[int], gone: Iterable[int] = ()) -> None:
        """From now on ``ids`` are the members, without those that are ``gone``. Observations of other epochs are passed over."""
        self._company.hear(now)
        before = self._company.ids
        self._company.view(now, epoch, set(ids) - set(gone))
        if self._company.ids == before:
            self._gathering.clear()  # a link broke, or somebody was late: what is usual holds on
        else:
            self._view_changed()

    def _view_changed(self) -> None:
        ids = self._company.ids
        self._gathering.clear()
        self._pace.view_changed()
        self._stragglers.view_changed()
        self._flows.view_changed()
        self._slow.view_changed()
        self._breaks.keep(ids)
        self._probes.keep(ids)
        self._ledger.drop(ids)

    def tick(self, now: float) -> list[Finding]:
        """What is newly found. To be called some times a second, and after observations."""
        if not math.isfinite(now):
            return []
        self._company.tick(now)
        self._unknown = self._flows.unknown(now)[:MOST_UNKNOWN]
        late = self._stragglers.late(now)
        hangs = self._hangs.claims(now)
        claims = [
            *hangs,
            *self._breaks.claims(now, self._flows.carrying, self._flows.moved_at),
            *self._slow.claims(now, late),
        ]
        claims += self._stragglers.claims(now, bool(hangs or late or self._flows.warm(now)))
        self._ledger.withdraw((Syndrome.COMMUNICATION_SLOW, culprit) for culprit in self._slow.withdrawn)
        return self._ledger.update(now, claims)

    def take_ended(self) -> list[Finding]:
        """What holds no longer, since this was asked last: the deviation is gone, its member is, or better evidence says
        something else. Each as it was said first."""
        return self._ledger.take_ended()
