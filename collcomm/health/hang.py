"""Operations that hang: who has not come, or where nothing moves any more."""

from __future__ import annotations

from collections.abc import Iterator

from .breaks import Breaks
from .company import Company
from .culprits import Edge, Suspect, suspects
from .finding import Culprit, CulpritKind, Finding, Syndrome
from .flows import Flows
from .gathering import Class, class_of
from .limits import Limits
from .observation import OpenOperation
from .pace import Pace

BROKE_BEFORE = 5.0  # seconds: a link that broke so shortly before all stood still may be the cause


class _Hung:
    """Operation ``seq`` of ``gid``: ``holders`` are in it, with what they have told of it."""

    def __init__(self, gid: int, seq: int, holders: dict[int, OpenOperation], entered: float, limit: float):
        self.gid = gid
        self.seq = seq
        self.holders = holders
        self.entered = entered  # when the first of them did
        self.limit = limit

    @property
    def cls(self) -> Class:
        operation = next(iter(self.holders.values()))
        return class_of(operation.gid, operation.kind, operation.nbytes)

    @property
    def text(self) -> str:
        operation = next(iter(self.holders.values()))
        return f"{operation.kind} {self.seq}" + (f" of communicator {self.gid}" if self.gid else "")


class Hangs:
    def __init__(self, limits: Limits, company: Company, pace: Pace, flows: Flows, breaks: Breaks):
        self._limits = limits
        self._company = company
        self._pace = pace
        self._flows = flows
        self._breaks = breaks

    def claims(self, now: float) -> list[Finding]:
        found: list[Finding] = []
        for hung in self._hung():
            found += self._absent(now, hung)
        return found

    def _hung(self) -> Iterator[_Hung]:
        """By communicator, the first operation in which somebody has been for too long."""
        company = self._company
        by_gid: dict[int, dict[int, dict[int, OpenOperation]]] = {}
        for member in company.told:
            for operation in company.open(member):
                by_gid.setdefault(operation.gid, {}).setdefault(operation.seq, {})[member] = operation
        for gid, by_seq in sorted(by_gid.items()):
            for seq, holders in sorted(by_seq.items()):
                first = next(iter(holders.values()))
                limit = self._pace.hang_after(class_of(gid, first.kind, first.nbytes))
                if not self._missing(gid, seq):
                    limit = min(limit, self._limits.hang_most)  # all have come: no work of theirs explains it
                entered = {member: company.entered_at(member, each) for member, each in holders.items()}
                if max(company.told[member].at - at for member, at in entered.items()) >= limit:
                    yield _Hung(gid, seq, holders, min(entered.values()), limit)
                    break

    def _missing(self, gid: int, seq: int) -> set[int]:
        """Who had not called the operation when it told last."""
        company = self._company
        return {
            member
            for member in company.of(gid)
            if member not in company.told or company.told[member].entered.get(gid, -1) < seq
        }

    def _absent(self, now: float, hung: _Hung) -> list[Finding]:
        """Blame whoever has not come; when all have, where nothing moves."""
        company = self._company
        missing = self._missing(hung.gid, hung.seq) - hung.holders.keys()
        mute = {
            member for member in company.of(hung.gid) if company.mute(now, member) and self._is_behind(hung, member)
        }
        for member in missing - mute:
            told = company.told.get(member)
            if told is None or told.at < hung.entered + hung.limit:
                return []  # it may have come since it told last; it will tell within a second
        present = company.of(hung.gid) - missing - mute
        if not self._stand(hung, present):
            return []
        going_on = {member for member in missing - mute if company.went_on_at.get(member, hung.entered) > hung.entered}
        busy_elsewhere = {member for member in missing - mute - going_on if company.open(member)}
        blamed = (missing | mute) - going_on - busy_elsewhere
        if blamed and len(missing | mute) <= max(1, len(company.of(hung.gid)) // 2):
            return self._blame(now, hung, blamed, mute, 1.0)
        if missing or mute:
            waited = max(company.told[member].at for member in hung.holders) - hung.entered
            late = waited >= self._limits.hang_many * hung.limit
            blamed = blamed or busy_elsewhere
            return self._blame(now, hung, blamed, mute, 0.3) if late and blamed else []
        return self._stuck(now, hung)

    def _is_behind(self, hung: _Hung, member: int) -> bool:
        """It has told nothing since the operation began, or was in it when it told last."""
        told = self._company.told.get(member)
        return told is None or member in hung.holders or told.entered.get(hung.gid, -1) < hung.seq

    def _stand(self, hung: _Hung, present: frozenset[int]) -> bool:
        """Whether at least half of those who have come say that they have been in an operation for about as long. One alone may
        be wrong about itself."""
        company = self._company
        long = {
            member
            for member in present
            for operation in company.open(member)
            if company.told[member].at - company.entered_at(member, operation) >= 0.4 * hung.limit
        }
        return bool(long) and 2 * len(long) >= len(present)

    def _blame(self, now: float, hung: _Hung, blamed: set[int], mute: set[int], certainty: float) -> list[Finding]:
        """Those with the lowest sequence number."""
        company = self._company
        reached = {
            member: company.told[member].entered.get(hung.gid, -1) if member in company.told else -1
            for member in blamed
        }
        lowest = min(reached.values())
        since = (hung.gid, hung.seq)
        waited = max(company.told[member].at for member in hung.holders) - hung.entered
        found = []
        for member in sorted(member for member in blamed if reached[member] == lowest or member in mute):
            if member in mute:
                what = f"member {member} has told nothing for {company.silent(now, member):.1f} s"
            else:
                called = f"its last was {reached[member]}" if reached[member] >= 0 else "nor any before"
                what = f"member {member} has not called {hung.text}, {called}"
            text = (
                f"{what}, while {len(hung.holders.keys() - mute)} others have waited in {hung.text} for {waited:.1f} s "
                f"(limit {hung.limit:.1f} s)"
            )
            confidence = certainty * (0.95 if self._pace.is_known(hung.cls) else 0.7)
            culprit = Culprit(CulpritKind.RANK, (member,))
            found.append(Finding(Syndrome.NON_COMMUNICATION_HANG, culprit, now, text, confidence, since))
        return found

    def _stuck(self, now: float, hung: _Hung) -> list[Finding]:
        """All have called it. If nothing moves anywhere, blame the links that should have moved something."""
        company = self._company
        limit = hung.limit
        moved = self._moved(hung)
        told = [company.told[member].at for member in hung.holders]
        if max(told) - moved < limit or min(told) < moved + 0.4 * limit:
            return []
        edges, how, confidence = self._edges(hung, moved, limit)
        silent = self._flows.still(0.0, moved)
        claims = []
        for suspect in suspects(
            edges, self._flows.carrying(now), self._limits.row_share, order=lambda edge: silent.get(edge, 0.0)
        ):
            claims.append(
                self._finding(now, hung, suspect, f"{how}; no byte has moved for {max(told) - moved:.1f} s", confidence)
            )
        return claims

    def _moved(self, hung: _Hung) -> float:
        """When something moved for the last time, as far as any of them tells. Who is in the operation no more has completed
        it: if it is in the next, before it entered that."""
        company = self._company
        last = [
            max(company.told[member].at - operation.silent, company.entered_at(member, operation))
            for member, operation in hung.holders.items()
        ]
        for member in company.of(hung.gid) & company.told.keys() - hung.holders.keys():
            later = [company.entered_at(member, each) for each in company.open(member) if each.gid == hung.gid]
            last.append(max(later, default=company.told[member].at))
        return max(last)

    def _finding(self, now: float, hung: _Hung, suspect: Suspect, how: str, confidence: float) -> Finding:
        culprit, members = suspect.culprit, suspect.culprit.members
        if culprit.kind is CulpritKind.LINK:
            subject = f"all have called {hung.text}; between members {members[0]} and {members[1]} "
        else:
            subject = f"all have called {hung.text}; on {len(suspect.edges)} links of member {members[0]} "
        return Finding(Syndrome.COMMUNICATION_HANG, culprit, now, subject + how, confidence, (hung.gid, hung.seq))

    def _edges(self, hung: _Hung, moved: float, limit: float) -> tuple[set[Edge], str, float]:
        """The links in question, by the best evidence that there is; how they are so; how sure that is."""
        ids = self._company.ids
        waits = {
            (member, awaited)
            for member, operation in hung.holders.items()
            for awaited in operation.waiting_on
            if awaited in ids and awaited != member
        }
        still = self._flows.still(0.4 * limit, moved)
        still = {edge: seconds for edge, seconds in still.items() if not self._breaks.is_relayed(edge)} or still
        broken = {edge for edge in self._breaks.since(moved - BROKE_BEFORE) if not self._flows.is_held(edge)}
        if still:
            longest = max(still.values())
            return set(still), f"nothing is acknowledged, for up to {longest:.1f} s", 0.95
        if broken:
            return broken, "the link broke, as an end of it says", 0.8
        mutual = {(awaited, member) for member, awaited in waits if (awaited, member) in waits}
        mutual = {edge for edge in mutual if not self._breaks.is_relayed(edge)} or mutual
        if mutual:
            return {(min(edge), max(edge)) for edge in mutual}, "each waits for the other", 0.7
        waiting = {member for member, _ in waits}
        loose = {(awaited, member) for member, awaited in waits if awaited not in waiting}
        return loose, "one waits for what the other has sent, or need not send, as it says", 0.5
