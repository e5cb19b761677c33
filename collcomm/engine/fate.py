"""What the communicators of one peer share, whatever carries them: their end, their events, and their sums."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import CollcommError
from .events import EventLog
from .marks import Recorder
from .surface import AnyGroup

G = TypeVar("G", bound=AnyGroup)


class SharedFate(Generic[G]):
    """``groups``: the communicators, by number. Once one of them cannot go on, for ``failure``, none can."""

    def __init__(self) -> None:
        self.groups: dict[int, G] = {}
        self.failure: CollcommError | None = None
        self.events: EventLog | None = None
        self.recorder: Recorder | None = None
        self.dump: Callable[[str], Path | None] | None = None  # writes the records into a directory
        self.at_failure: list[Callable[[CollcommError], None]] = []  # hear why it ended; they must not wait
        self.at_close: list[Callable[[], None]] = []  # what ends with this peer's membership
        self.steps = 0  # calls of step() that have returned
        self._lock = threading.RLock()

    def fail(self, error: CollcommError) -> None:
        """Every present and future call raises ``error``."""
        with self._lock:
            if self.failure is None:
                self.failure = error
                if self.events is not None:
                    self.events.ended(error)
                for tell in self.at_failure:
                    tell(error)
            for group in self.groups.values():
                group.progress.fail(self.failure)

    def tell_corruption(
        self, epoch: int, gid: int, seq: int, members: Sequence[int], confidence: float, text: str
    ) -> None:
        """A check of results has found whose fault a wrong one is; who has a coordinator tells it."""

    def totals(self) -> dict[str, float]:
        """Since joining, over all communicators of this peer."""
        groups = list(self.groups.values())
        return {
            "operations": sum(group.operations for group in groups),
            "steps": self.steps,
            "seconds_lost": sum(group.seconds_lost for group in groups),
        }
