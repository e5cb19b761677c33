"""Somebody who watches over the health of groups, as far as what is shown goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Shown = dict[str, Any]


class Telling:
    """Makes of what the membership shows what ``change`` says, and asks for nothing."""

    def __init__(self, change: Callable[[Shown], Shown]):
        self._change = change

    def heard(self, now: float, group: str, member: int, message: Any) -> None: ...

    def tick(self, now: float, group: str, view: Any, links: Any, ways: Any) -> Sequence[Any]:
        return ()

    def keep_only(self, groups: Sequence[str]) -> None: ...

    def show(self, shown: Shown, now: float, wall: float) -> Shown:
        return self._change(shown)
