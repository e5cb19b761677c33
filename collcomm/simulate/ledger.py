"""What has been promised to whom. Raises AssertionError at the first contradiction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

from ..membership.messages import Message
from ..types import Member

Fate = Hashable


class Ledger:
    """Views by epoch, the fates of operations, and revisions of the shared state, of one run of one group.

    A run is what one numbering of epochs belongs to: it ends when no member is left, and is named by its incarnation.
    ``recorded``: coordinators write views down. Without, one that comes back may take over a view that half of the members or
    more have been removed from, if none of those who went on is heard of (docs/protocol.md, What is not promised): an *era* of
    the run ends.
    """

    def __init__(self, recorded: bool = True) -> None:
        self._recorded = recorded
        self._latest: dict[str, tuple[int, frozenset[int]]] = {}  # the newest view of a run
        self._eras: Counter[str] = Counter()
        self.views: dict[tuple[str, int, int], tuple[Any, ...]] = {}  # (run, era, epoch)
        self.fates: dict[
            tuple[str, int, int, int], tuple[Fate, str]
        ] = {}  # (run, era, turn, part) -> fate, first seen at
        self.states: dict[tuple[str, int, int], tuple[bytes, str]] = {}
        self._newest: dict[str, int] = {}
        self._revisions: dict[str, int] = {}

    def announced(self, run: str, message: Message) -> None:
        """A coordinator sends a view."""
        members = tuple(Member(*row) for row in message["members"])
        told = (members, tuple(sorted((gid, str(outcome)) for gid, outcome in message["outcomes"].items())))
        epoch, ids = message["epoch"], frozenset(member.id for member in members)
        if any(self.views.get((run, era, epoch)) == told for era in range(self._eras[run] + 1)):
            return  # said again, or heard late
        newest, before = self._latest.get(run, (0, ids))
        parted = not self._recorded and not ids & before and (run, self._eras[run], epoch) not in self.views
        self._eras[run] += parted
        if parted or epoch > newest:
            self._latest[run] = epoch, ids
        known = self.views.setdefault((run, self._eras[run], epoch), told)
        assert known == told, f"two views of epoch {epoch} of run {run}: {known} and {told}"

    @property
    def eras_ended(self) -> int:
        """How often something happened that is outside of what is promised."""
        return self._eras.total()

    def adopted(self, peer: str, epoch: int) -> None:
        assert epoch > self._newest.get(peer, 0), f"{peer} goes back to epoch {epoch}"
        self._newest[peer] = epoch

    def ended(self, run: str, turn: int, part: int, fate: Fate, peer: str) -> None:
        """Uniform agreement: all who return from one operation return the same, dead by now or not."""
        known, by = self.fates.setdefault((run, self._eras[run], turn, part), (fate, peer))
        assert known == fate, f"turn {turn}, part {part}: {by} returned {known}, {peer} {fate}"

    def synced(self, run: str, revision: int, digest: bytes, peer: str) -> None:
        """Equal bits at each revision, and no peer's revision goes back."""
        known, by = self.states.setdefault((run, self._eras[run], revision), (digest, peer))
        assert known == digest, f"revision {revision} differs between {by} and {peer}"
        assert revision >= self._revisions.get(peer, 0), f"{peer} goes back to revision {revision}"
        self._revisions[peer] = revision
