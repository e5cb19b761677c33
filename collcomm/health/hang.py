"""Operations that do not end, and on whom that is to be blamed (C4, Dong et al. 2024).

Of each communicator the highest operation that any member is in is looked at, once a member has been in it for longer than
T_hang:

    who has entered it                         who is blamed                                            syndrome
    -----------------------------------------  -------------------------------------------------------  ----------------------
    not all                                    those who have not, are in no other operation, and of    non-communication hang
                                               these the ones that have come the least far
    all, and no byte has moved for long        the links of which an end has bytes on the way that      communication hang
                                               nobody acknowledges; else those whose ends wait for
                                               each other
    all, and bytes move                        nobody: it is slow, at worst

T_hang is `FACTOR` times what nearly all operations of that kind and size have taken, within bounds. Who is healthy is not
accused: the first rule blames a member by what it says itself (it has not called the operation); who is silent altogether
says nothing and is not judged here: the membership finds that out, and sooner. The second blames a link by what the kernel of
an end says of it, or by what both ends say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .baseline import Baseline
from .finding import Culprit, CulpritKind, Finding, Syndrome
from .observation import Observation, OpenOperation

FACTOR = 10.0
FRESH_SECONDS = 3.0  # an older observation says nothing of the present
SILENT_SECONDS = 0.8  # bytes unacknowledged for that long: more than any retransmission on a link that works
MOST_CLASSES = 4096


@dataclass(frozen=True)
class HangLimits:
    """T_hang, in seconds: at least and at most, unless operations usually take longer than that."""

    least: float = 2.0
    most: float = 5.0


class Hangs:
    def __init__(self, limits: HangLimits | None = None):
        self.limits = limits or HangLimits()
        self._took: dict[tuple[str, int], Baseline] = {}

    def learn(self, kind: str, nbytes: int, took: float) -> None:
        """An operation has taken so long at the member that was in it longest."""
        key = kind, nbytes.bit_length()
        if key not in self._took and len(self._took) >= MOST_CLASSES:
            self._took.clear()
        self._took.setdefault(key, Baseline()).learn(took)

    def threshold(self, kind: str, nbytes: int) -> float:
        """T_hang of such an operation."""
        known = self._took.get((kind, nbytes.bit_length()))
        usual = known.highest if known is not None and known.warm else 0.0
        return max(self.limits.least, min(self.limits.most, FACTOR * usual), 2.0 * usual)

    def find(self, now: float, ids: Sequence[int], last: Mapping[int, Observation]) -> Iterator[Finding]:
        """``last``: the last observation of each member."""
        fresh = {member: one for member, one in last.items() if now - one.at <= FRESH_SECONDS}
        gids = sorted({operation.gid for one in fresh.values() for operation in one.open})
        for gid in gids:
            finding = self._look(now, gid, ids, fresh)
            if finding is not None:
                yield finding

    def _look(self, now: float, gid: int, ids: Sequence[int], fresh: Mapping[int, Observation]) -> Finding | None:
        inside = {member: _open(one, gid) for member, one in fresh.items()}
        seq = max(operation.seq for operation in inside.values() if operation is not None)
        waiting = {
            member: operation for member, operation in inside.items() if operation is not None and operation.seq == seq
        }
        ages = {member: operation.age + now - fresh[member].at for member, operation in waiting.items()}
        first = max(ages, key=lambda member: ages[member])
        operation = waiting[first]
        if ages[first] <= self.threshold(operation.kind, operation.nbytes):
            return None
        what = f"{operation.kind} of {operation.nbytes} bytes, operation {seq}"
        absent = [member for member in ids if member in fresh and fresh[member].entered.get(gid, seq) < seq]
        if absent:
            return self._absent(now, gid, seq, what, absent, fresh, ages)
        if set(waiting) != set(fresh) or len(fresh) < len(ids):
            return None  # somebody has it behind him, or says nothing
        still = [one.silent + now - fresh[member].at for member, one in waiting.items() if one.waiting_on]
        if not still or min(still) <= SILENT_SECONDS:
            return None
        culprit, evidence = _edge(waiting, fresh)
        if culprit is None:
            return None
        text = f"all {len(ids)} members are in {what}, for {ages[first]:.1f} s, and {evidence}"
        return Finding(Syndrome.COMMUNICATION_HANG, culprit, now, text, 0.9, (gid, seq))

    def _absent(
        self,
        now: float,
        gid: int,
        seq: int,
        what: str,
        absent: Sequence[int],
        fresh: Mapping[int, Observation],
        ages: Mapping[int, float],
    ) -> Finding | None:
        free = [member for member in absent if not fresh[member].open]
        if not free:
            return None  # they wait elsewhere: the hang is there
        least = min(fresh[member].entered[gid] for member in free)
        blamed = tuple(member for member in free if fresh[member].entered[gid] == least)
        text = (
            f"{len(ages)} members have been in {what} for up to {max(ages.values()):.1f} s; "
            f"{_members(blamed)} called operation {least} last and {'are' if len(blamed) > 1 else 'is'} in none"
        )
        culprit = Culprit(CulpritKind.RANK, blamed)
        return Finding(Syndrome.NON_COMMUNICATION_HANG, culprit, now, text, 0.95, (gid, seq))


def _open(observation: Observation, gid: int) -> OpenOperation | None:
    return next((one for one in observation.open if one.gid == gid), None)


def _edge(waiting: Mapping[int, OpenOperation], fresh: Mapping[int, Observation]) -> tuple[Culprit | None, str]:
    """Which edge stands still: by what is unacknowledged, else by who waits for whom."""
    silent = {
        (member, flow.target): flow.silent
        for member, one in fresh.items()
        for flow in one.flows
        if flow.silent > SILENT_SECONDS and flow.target in waiting
    }
    if silent:
        culprit = common(silent)
        longest = max(silent.values())
        return culprit, f"bytes from {_pairs(silent)} have been unacknowledged for {longest:.1f} s"
    mutual = [
        (one, other)
        for one, operation in waiting.items()
        for other in operation.waiting_on
        if one < other and other in waiting and one in waiting[other].waiting_on
    ]
    if len(mutual) == 1:
        return Culprit(CulpritKind.LINK, mutual[0]), f"members {mutual[0][0]} and {mutual[0][1]} wait for each other"
    return None, ""


def common(edges: Mapping[tuple[int, int], float]) -> Culprit:
    """What all or nearly all ``edges`` have in common: one edge is a link; several with one member are that member's egress,
    ingress, or the member itself."""
    pairs = {(min(edge), max(edge)) for edge in edges}
    if len(pairs) == 1:
        source, target = max(edges, key=lambda edge: edges[edge])
        return Culprit(CulpritKind.LINK, (source, target))
    out, into = Counter(source for source, _ in edges), Counter(target for _, target in edges)
    either = out + into
    member, count = max(either.items(), key=lambda item: (item[1], -item[0]))
    if count < 0.7 * len(edges):
        source, target = max(edges, key=lambda edge: edges[edge])
        return Culprit(CulpritKind.LINK, (source, target))
    if into[member] == 0:
        return Culprit(CulpritKind.SENDER, (member,))
    if out[member] == 0:
        return Culprit(CulpritKind.RECEIVER, (member,))
    return Culprit(CulpritKind.RANK, (member,))


def _members(ids: Sequence[int]) -> str:
    return ("members " if len(ids) > 1 else "member ") + ", ".join(map(str, ids))


def _pairs(edges: Mapping[tuple[int, int], float]) -> str:
    shown = [f"{source} to {target}" for source, target in list(edges)[:4]]
    return ", ".join(shown) + (f" and {len(edges) - 4} more" if len(edges) > 4 else "")
