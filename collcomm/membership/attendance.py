"""Who watches over the health of groups, beside the membership: what it hears, and what it may ask for.

The membership decides who lives; somebody else (`collcomm.health`) may find out who is sick. It hears what members tell of
themselves and of their links, and answers with orders, which the group carries out like any other event.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..types import LinkRow, View, Way
from .messages import Message


@dataclass(frozen=True)
class SetAside:
    """``member`` is out, and is not let in again by its name for ``cooldown`` seconds."""

    member: int
    cause: str
    cooldown: float


@dataclass(frozen=True)
class Doubt:
    """The links from source to target are to be taken for so many times as slow as they were measured; all others for what
    they are."""

    factors: Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class Measure:
    """Links between these pairs of members are to be measured now."""

    pairs: Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Say:
    """Something happened; ``kind``: of an event. ``member``: 0 if it is about none in particular."""

    kind: str
    text: str
    member: int = 0
    cause: str = ""


Order = SetAside | Doubt | Measure | Say


class Attendant(Protocol):
    """Called on the coordinator's thread, or under its lock; each call returns quickly. ``now``: the coordinator's clock."""

    def heard(self, now: float, group: str, member: int, message: Message) -> None:
        """A member has told how it is ("health"), or of a link that is broken ("accuse", "unreachable")."""

    def tick(
        self, now: float, group: str, view: View, links: Iterable[tuple[LinkRow, float]], ways: Sequence[Way]
    ) -> Sequence[Order]:
        """``view``: the present one; ``links``: as measured, and how many seconds ago; ``ways``: of pairs that are not linked in
        the usual way."""

    def keep_only(self, groups: Sequence[str]) -> None:
        """Others are no more."""

    def show(self, shown: dict[str, Any], now: float, wall: float) -> dict[str, Any]:
        """Fill in what is known of a group into what the membership shows of it; see `collcomm.health.snapshot`."""
