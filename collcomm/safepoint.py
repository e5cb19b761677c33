"""What members find out together at a safe point, in one small all_reduce: whether anybody waits to be admitted, whether one
of them is about to leave, and whether all of them hold the same new plan.

Words are joined by "and". A number is equal for all members if, and only if, the numbers and their complements come out of
that as they went in. So members compare the revision of the plan that they hold, and the epoch of the view in which they
began. A plan is taken if its revision is the same for all, and everybody began in the view in which the words were joined:
after a view change in between some may have begun with the later view already, which brings its own plan.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .types import View

Words = np.ndarray[Any, np.dtype[np.uint64]]
_ALL = (1 << 64) - 1


def meet(view: View, waiting: bool, busy: bool, revision: int, leaving: bool = False) -> Words:
    """This member's words. ``view``: its newest; ``revision``: of the plan that it holds for that, 0 for none."""
    nobody_waits, idle, stays = int(not waiting), int(not busy), int(not leaving)
    numbers = (revision, revision ^ _ALL, view.epoch, view.epoch ^ _ALL)
    return np.array([nobody_waits | idle << 1 | stays << 2, *numbers], np.uint64)


def outcome(agreed: Words, view: View) -> tuple[bool, int]:
    """From everybody's words, joined in ``view``: whether to admit newcomers, and the revision of the plan to take, 0 for
    none."""
    flags, revision, other_revision, epoch, other_epoch = (int(word) for word in agreed)
    admit = not flags & 1 and bool(flags & 2)
    together = epoch == view.epoch and other_epoch == view.epoch ^ _ALL
    return admit, revision if together and other_revision == revision ^ _ALL else 0


def somebody_leaves(agreed: Words) -> bool:
    """From everybody's words, joined."""
    return not int(agreed[0]) & 4
