"""Members that come late: who is slow outside of communication.

All members leave an operation within about a round trip of each other, since nobody returns before the commit round. So who
was in it for the shortest time came last, by as much as the one who was in it longest had to wait; no clocks are compared.

A member is slow when it comes later than it usually does, to operations of that kind and size: uneven work that has always been
uneven is usual. It must be the last by far, by more than its own spread and than the others' lateness, in `LEAST` of its last
`OF` operations of a class: who comes late to the first of several in a row is in time for the others; so it is found within
`OF` operations, and a burst of a few is not enough. While it holds, nothing is learnt: what is wrong does not become usual.
The others cannot be accused by it: they are early, not late.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .baseline import Baseline, Sustained
from .finding import Culprit, CulpritKind, Finding, Syndrome

LEAST, OF, FEW = 9, 12, 2
SPREADS = 6.0
ADVANCE = 2.0  # it comes at least so many times as late as the next one, above what is usual
SHARE = 0.25  # of what the operation usually takes from the first call to the end: less is no harm worth a finding
LEAST_SECONDS = 2e-3
SKIP = 3  # the first operations of a class do not count
MOST_CLASSES = 4096

Class = tuple[str, int]  # kind, and bits of the number of bytes


class Stragglers:
    def __init__(self) -> None:
        self._usual: dict[tuple[int, Class], Baseline] = {}
        self._length: dict[Class, Baseline] = {}
        self._late: dict[tuple[int, Class], Sustained] = {}
        self._worst: dict[int, tuple[float, float]] = {}  # lateness now, and usually

    def observe(self, operation: Class, took: Mapping[int, float]) -> list[int]:
        """All members have told how long they were in an operation. Returns the members for whom something may have changed."""
        if len(took) < 2:
            return []
        if len(self._usual) >= MOST_CLASSES:
            self._usual.clear()
            self._length.clear()
            self._late.clear()
        longest = max(took.values())
        late = {member: longest - seconds for member, seconds in took.items()}
        length = self._length.setdefault(operation, Baseline(SKIP))
        beyond = {member: seconds - self._baseline(member, operation).median for member, seconds in late.items()}
        ordered = sorted(beyond.values())
        changed = []
        for member, seconds in late.items():
            usual = self._baseline(member, operation)
            deviates = (
                usual.warm
                and beyond[member] == ordered[-1]
                and beyond[member] > max(LEAST_SECONDS, SHARE * length.median)
                and beyond[member] > ADVANCE * max(0.0, ordered[-2])
                and beyond[member] > SPREADS * usual.spread
            )
            rule = self._late.get((member, operation))
            if rule is None:
                rule = self._late[member, operation] = Sustained(LEAST, OF, FEW)
            if deviates:
                self._worst[member] = seconds, usual.median
            if rule.look(deviates):
                changed.append(member)
            if not rule.holds and not deviates:
                usual.learn(seconds)
        if not any(self._late[member, operation].holds for member in late):
            length.learn(longest)
        return changed

    def find(self, now: float, member: int) -> Finding:
        seconds, usual = self._worst.get(member, (0.0, 0.0))
        text = (
            f"member {member} came {_ms(seconds)} after the first in at least {LEAST} of {OF} operations, usually "
            f"{_ms(usual)}; the others waited for it"
        )
        factor = seconds / usual if usual > 0 else 0.0
        return Finding(
            Syndrome.NON_COMMUNICATION_SLOW, Culprit(CulpritKind.RANK, (member,)), now, text, 0.9, None, factor
        )

    @property
    def slow(self) -> Iterator[int]:
        return (member for (member, _), rule in self._late.items() if rule.holds)

    def keep_only(self, ids: Sequence[int]) -> None:
        """The others are gone; what was under way begins anew."""
        self._usual = {key: one for key, one in self._usual.items() if key[0] in ids}
        self._late = {}
        self._worst = {member: one for member, one in self._worst.items() if member in ids}

    def _baseline(self, member: int, operation: Class) -> Baseline:
        found = self._usual.get((member, operation))
        if found is None:
            found = self._usual[member, operation] = Baseline(SKIP)
        return found


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
