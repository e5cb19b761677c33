"""Into which groups a communicator has been split, as all of its members know: their traffic is planned side by side."""

from __future__ import annotations

from collections.abc import Sequence

from .types import View

MOST = 64  # groups that are remembered


class Partings:
    """Every member of a communicator takes part in each split, and so remembers the same. Newcomers know nothing of what was
    before: where there are any, all begin anew."""

    def __init__(self) -> None:
        self._known: frozenset[int] = frozenset()
        self._groups: list[tuple[int, ...]] = []

    def add(self, members: Sequence[int], view: View) -> tuple[tuple[int, ...], ...]:
        """A group of ``members`` is split off in ``view``; returns those that were before it, in order."""
        if not self._known.issuperset(view.ids):
            self._known, self._groups = frozenset(view.ids), []
        before = tuple(self._groups)
        self._groups = [*self._groups, tuple(members)][-MOST:]
        return before
