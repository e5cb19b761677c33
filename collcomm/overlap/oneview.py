"""Several operations of the engine for one call, all of them in one view.

The first is an all_reduce of one byte under the name of what is to be done: peers who call something else find out there, and
the view in which it ran is where all begin, whatever each had seen before. Every operation commits in one view at all
survivors, or fails at all of them with the same error (`engine.progress`). So whoever compares the view of each operation with
that of the first one finds the same as all other survivors, at the same operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..engine import AnyGroup, AnySession, Operation, Request, request
from ..types import View

Array = np.ndarray[Any, Any]
_BYTE = np.dtype(np.uint8)
_LEAST_SECONDS = 1e-3


class OneView:
    """For one call. ``seen``: the view of the last operation, also of one that failed. ``deadline``: on the session's clock."""

    def __init__(self, session: AnySession, group: AnyGroup, text: str, deadline: float):
        if session.failure is not None:
            raise session.failure
        self.text = text
        self.seen = group.view
        self._session = session
        self._group = group
        self._deadline = deadline

    def open(self) -> View:
        """All members mean the same. Raises CollectiveMismatch and what operations raise, as does `run`."""
        nothing = np.zeros(1, np.uint8)
        self.run(request("all_reduce", _BYTE, size=1, op="max", part_of=self.text), self._group.view, nothing, nothing)
        return self.seen

    def run(self, asked: Request, view: View, given: Array | None, target: Array | None) -> Array | None:
        """The flat result of ``asked``, of which the ranks are those of ``view``: of nothing where `seen` is a later one."""
        ufunc = asked.ufunc if asked.op else None
        operation = Operation(asked, view, self._session.member, given, target, ufunc)
        left = max(_LEAST_SECONDS, self._deadline - self._session.clock.monotonic())
        try:
            result: Array | None = self._group.run(operation, left)
        finally:
            self.seen = operation.view
        return result

    def left(self, view: View) -> bool:
        """Whether the last operation ran in a later view."""
        return self.seen.epoch != view.epoch

    def show(self) -> None:
        """The user learns of the membership."""
        self._group.show(self.seen)
