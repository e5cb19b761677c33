"""What a failure leaves open, decided once for all survivors: a pure function of their reports.

Each operation begins with an *opening*: an all-gather of small records, so whoever has come through the opening of s knows
that everybody has entered s. Small operations travel in the records themselves, and are *committed* where the opening is
through; large ones move their data afterwards, are *complete* then, and committed after a barrier.

After a death, the survivors shrink the communicator and all-gather their reports on the new one. Why all come to one end:

(1) All are within one operation of each other: the opening of s + 1 cannot end anywhere before all have entered s + 1,
that is, have returned from s.
(2) Whoever has committed a *large* s has come through the barrier, so every survivor is complete at s: nothing is missing.
(3) Whoever has committed a *small* s still has all records of s: they are overwritten by the opening of s + 2, which cannot
have begun before all have returned from s. It hands them to those who lack them, and they compute the same bits.
(4) So ``max(committed)`` is what anybody alive may have returned, and everybody can return it, too; beyond that,
``min(complete)`` is what all hold. All later operations were committed nowhere alive: they are run again, or fail, everywhere.
(5) A further death may keep some from hearing of a decision that others have acted upon. Nobody gets further on that
way: no opening in the new view ends before all its members have entered it. Those who have acted say so in their next
report (higher epoch; numbers as decided; ``failed``, the last operation that a decision has failed), and (4) gives the
same again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np


@dataclass(frozen=True)
class Report:
    """How far one member has got. ``size``: of its view; ``expired``: it has no time left for the operation it is in;
    ``tardy``: it came when the communicator had failed already;
    ``leaving``: it takes part for the others' sake; ``failed`` and ``late``: the last operation that was decided to have failed,
    and whether for lack of time."""

    member: int
    epoch: int
    size: int
    entered: int
    complete: int
    committed: int
    failed: int = 0
    late: int = 0
    expired: int = 0
    leaving: int = 0
    tardy: int = 0

    def packed(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        return np.array(astuple(self), np.int64).view(np.uint8)


WORDS = len(fields(Report))


def unpack_reports(rows: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> list[Report]:
    return [Report(*map(int, row)) for row in rows.view(np.int64).reshape(-1, WORDS)]


@dataclass(frozen=True)
class Decision:
    """Operations up to ``decided`` have succeeded, later ones up to ``consumed`` have failed (for lack of time: ``late``), those
    after it run again in the view ``epoch``. ``holder``: position of the report whose owner has the records that ``needy``
    members lack, or -1."""

    epoch: int
    decided: int
    consumed: int
    late: bool
    holder: int
    missing: tuple[int, ...]  # members that had not entered the operation that lacked time


def decide(reports: Sequence[Report], raise_on_loss: bool) -> Decision:
    low = min(report.complete for report in reports)
    high = max(report.committed for report in reports)
    assert max(report.complete for report in reports) <= low + 1, reports
    last = max(low, high)
    failed = max(report.failed for report in reports)
    late = any(report.late for report in reports if report.failed == failed)
    decided = consumed = last
    if failed and failed == last:
        decided = failed - 1
    holder = -1
    if low < decided:
        holder = next(index for index, report in enumerate(reports) if report.committed == decided)
    newest = max(report.epoch for report in reports)
    died = max(report.size for report in reports if report.epoch == newest) > len(reports)
    current = [report for report in reports if report.entered > last]
    missing: tuple[int, ...] = ()
    if any(report.expired for report in current):
        missing = tuple(report.member for report in reports if report.tardy or report not in current)
        consumed, late = last + 1, True
    elif current and died and raise_on_loss:
        consumed, late = last + 1, False
    return Decision(newest + 1, decided, consumed, late, holder, missing)
