"""An attempt whose group changes its view when MPI says that a communicator has failed, not when a coordinator says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...clock import SYSTEM
from ...transports.base import Link, Poller
from ...transports.frames import HEADER_BYTES
from ..attempt import Attempt, Staging
from ..plan import INLINE_BYTES
from ..progress import Progress


class MpiAttempt(Attempt):
    """``look`` is called while nothing comes, and ends the attempt by raising."""

    __slots__ = ("_look",)

    def __init__(
        self,
        progress: Progress,
        links: Callable[[int, Attempt], Link],
        look: Callable[[], None],
        poller: Callable[[], Poller],
    ):
        staging = Staging(HEADER_BYTES + INLINE_BYTES)
        super().__init__(progress, links, lambda: (), lambda attempt, ranks: None, staging, SYSTEM, poller)
        self._look = look

    def idle(self, ranks: Sequence[int]) -> None:
        self.check()
        self._look()
