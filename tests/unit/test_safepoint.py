"""What members find out together at a safe point."""

from __future__ import annotations

import numpy as np
import pytest

from collcomm.safepoint import meet, outcome, somebody_leaves
from collcomm.types import View


def joined(*words: np.ndarray) -> np.ndarray:
    return np.bitwise_and.reduce(words)


def test_newcomers_are_admitted_when_one_member_knows_of_them_and_none_is_busy() -> None:
    view = View(3, ())
    quiet, waiting = meet(view, False, False, 0), meet(view, True, False, 0)
    busy = meet(view, True, True, 0)
    assert outcome(joined(quiet, quiet), view) == (False, 0)
    assert outcome(joined(quiet, waiting), view) == (True, 0)
    assert outcome(joined(quiet, waiting, busy), view) == (False, 0)


def test_a_plan_is_taken_when_all_hold_the_same() -> None:
    view = View(3, ())

    def outcome_of(*revisions: int) -> int:
        return outcome(joined(*(meet(view, False, False, revision) for revision in revisions)), view)[1]

    assert outcome_of(7, 7, 7) == 7
    assert [outcome_of(*others) for others in ((7, 7, 6), (7, 15), (0, 1), (0, 0), (4, 6))] == [0] * 5


@pytest.mark.parametrize("epochs", [(3, 4), (4, 3), (5, 7), (1, 2)])
def test_nobody_takes_a_plan_when_a_view_change_came_between(epochs: tuple[int, int]) -> None:
    """Whatever view the words were joined in."""
    agreed = joined(*(meet(View(epoch, ()), False, False, 1) for epoch in epochs))
    for joined_in in range(9):
        assert outcome(agreed, View(joined_in, ()))[1] == 0


def test_one_who_leaves_is_noticed_by_all_and_changes_nothing_else() -> None:
    view = View(3, ())
    stays, waiting, leaves = meet(view, False, False, 7), meet(view, True, False, 7), meet(view, False, False, 7, True)
    assert not somebody_leaves(joined(stays, waiting))
    assert somebody_leaves(joined(stays, leaves, waiting)) and somebody_leaves(leaves)
    assert outcome(joined(stays, leaves), view) == (False, 7)
    assert outcome(joined(waiting, leaves), view) == (True, 7)
