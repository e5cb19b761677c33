"""What members find out together at a safe point, in one small all_reduce: whether anybody waits to be admitted, and whether
all of them hold a better plan.

Each bit is set where a member agrees, and members' words are joined by "and". All compare the epoch of the view in which they
began with the one in which the words were joined. Where these differ for anybody (a view change came between), nobody takes a
plan: some may already have begun with the view that brings its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .types import View

Words = np.ndarray[Any, np.dtype[np.uint64]]
_ALL = (1 << 64) - 1


def meet(view: View, waiting: bool, busy: bool, offers: int) -> Words:
    """This member's words. ``view``: its newest; ``offers``: a bit for each plan that it holds, see `Session.offers`."""
    nobody_waits, idle = int(not waiting), int(not busy)
    return np.array([nobody_waits | idle << 1, offers, view.epoch, view.epoch ^ _ALL], np.uint64)


def outcome(agreed: Words, view: View) -> tuple[bool, int]:
    """From everybody's words, joined in ``view``: whether to admit newcomers, and the plans that all hold."""
    flags, common, epoch, complement = (int(word) for word in agreed)
    admit = not flags & 1 and bool(flags & 2)
    together = epoch == view.epoch and complement == view.epoch ^ _ALL
    return admit, common if together else 0
