"""A view as it is told: one message to all members, to which each gets the keys that are its own, and a record of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..types import Outcome, View
from .messages import Message
from .pairkeys import booth_key, pair_keys, view_secret

Run = tuple[str, bytes]  # incarnation and token


class Announcement:
    """The last one of a group. ``run``: names this run of the group; ``secret``: what the keys of its data connections are made
    from. Without one the views carry no keys."""

    def __init__(self, run: Run, secret: bytes | None):
        self.run = run
        self.booth: tuple[int, int] | None = None  # port of the coordinator's relay, and this group's number there
        self.settled: dict[int, int] = {}  # consumed, by communicator, as of this view
        self._secret = secret
        self._view = View(0, ())
        self._message: Message = {}

    def make(
        self,
        view: View,
        admitted: bool,
        outcomes: Mapping[int, Outcome],
        broken: Iterable[tuple[int, int]],
        plan: Message | None,
        ways: list[list[int]],
    ) -> None:
        message = {
            "t": "view",
            "epoch": view.epoch,
            "members": [member.row for member in view.members],
            "admitted": admitted,
            "outcomes": {gid: _row(outcome) for gid, outcome in outcomes.items()},
            "broken": [list(pair) for pair in broken],
            "plan": plan,
            "ways": ways,
        }
        self.resume(view, message)

    def resume(self, view: View, message: Mapping[str, Any]) -> None:
        """Go on from what was announced: ``message`` says ``view``."""
        self._view = view
        self._message = {"t": "view", **message}
        self.settled = {gid: consumed for gid, (_, consumed, _) in message["outcomes"].items()}

    def to(self, member: int) -> Message:
        """What ``member`` is told: with the keys that it shares with the others."""
        if self._secret is None:
            return {**self._message, "keys": [], "booth": None}
        secret = view_secret(self._secret, self._view.epoch)
        booth = None if self.booth is None else [*self.booth, booth_key(self._secret, member)]
        return {**self._message, "keys": pair_keys(secret, member, self._view.ids), "booth": booth}

    def booth_keys(self, members: Iterable[int]) -> dict[int, bytes]:
        """The keys with which those of ``members`` who are in this view may use the coordinator's relay."""
        secret, view = self._secret, self._view
        return {m: booth_key(secret, m) for m in members if view.rank_of(m) is not None} if secret is not None else {}

    def record(self, options: tuple[int, str], next_id: int, next_epoch: int) -> Message:
        """What a coordinator that takes over has to know."""
        incarnation, token = self.run
        min_size, on_failure = options
        return {
            "incarnation": incarnation,
            "token": token,
            "min_size": min_size,
            "on_failure": on_failure,
            "view": self._message,
            "next_id": next_id,
            "next_epoch": next_epoch,
        }


def _row(outcome: Outcome) -> list[object]:
    verdict = outcome.verdict
    row = None if verdict is None else [verdict.kind, verdict.text[:4000], list(verdict.culprits)]
    return [outcome.decided, outcome.consumed, row]
