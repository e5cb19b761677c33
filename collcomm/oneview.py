"""Several operations of the engine for one call, all of them in one view.

The first is an all_reduce of one byte under the name of what is to be done: peers who call something else find out there, it
settles what each of them might decide otherwise, and the view in which it ran is where all begin, whatever each had seen before.
Every operation commits in one view at all survivors, or fails at all of them with the same error (`engine.progress`). So whoever
compares the view of each operation with that of the first one finds the same as all other survivors, at the same operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .engine import AnyGroup, AnySession, Operation, Request, request
from .engine.handle import Conclusion
from .types import View

Array = np.ndarray[Any, Any]
_BYTE = np.dtype(np.uint8)
_LEAST_SECONDS = 1e-3


class OneView:
    """For one call, which is ``text``; ``member``: who makes it. ``seen``: the view of the last operation, also of one that
    failed. ``deadline``: on the session's clock."""

    def __init__(self, session: AnySession, group: AnyGroup, text: str, deadline: float):
        if session.failure is not None:
            raise session.failure
        self.text = text
        self.seen = group.view
        self.member = session.member
        self._session = session
        self._group = group
        self._deadline = deadline

    def open(self, proposal: int = 0) -> tuple[int, View]:
        """All members mean the same, and begin in this view, by the greatest of their proposals, each a byte. Raises
        CollectiveMismatch and what operations raise, as does `run`."""
        agreed = np.array([proposal], np.uint8)
        self.run(request("all_reduce", _BYTE, size=1, op="max", part_of=self.text), self._group.view, agreed, agreed)
        return int(agreed[0]), self.seen

    def run(self, asked: Request, view: View, given: Array | None, target: Array | None) -> Array | None:
        """The flat result of ``asked``, of which the ranks are those of ``view``: of nothing where `seen` is a later one."""
        ufunc = asked.ufunc if asked.op else None
        operation = Operation(asked, view, self.member, given, target, ufunc)
        left = max(_LEAST_SECONDS, self._deadline - self._session.clock.monotonic())
        try:
            result: Array | None = self._group.run(operation, left)
        finally:
            self.seen = operation.view
        return result

    def call(self, work: Callable[[], Any], conclude: Conclusion, async_op: bool) -> Any:
        """What ``conclude`` makes of the result of ``work``, which runs in the communicator's turn; or a handle of that. The user
        knows of the membership then."""

        def concluded(value: Any, error: BaseException | None) -> Any:
            self.show()
            return conclude(value, error)

        if async_op:
            return self._group.call(work, self.text, True, concluded)
        try:
            found = self._group.call(work, self.text, False)
        except BaseException:
            self.show()
            raise
        return concluded(found, None)

    def left(self, view: View) -> bool:
        """Whether the last operation ran in a later view."""
        return self.seen.epoch != view.epoch

    def show(self) -> None:
        """The user learns of the membership."""
        self._group.show(self.seen)
