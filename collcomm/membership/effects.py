"""What the state machines want done. Drivers carry it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..types import Outcome, View


@dataclass(frozen=True)
class Send:
    """Send ``message`` to the peer whose connection is called ``key`` (a peer's machine has only the coordinator: b"")."""

    key: bytes
    message: Mapping[str, Any]


@dataclass(frozen=True)
class Ping:
    """Send pulse ``number`` to a peer's echo."""

    key: bytes
    number: int


@dataclass(frozen=True)
class Note:
    """Something that a person who watches the coordinator wants to know."""

    text: str


@dataclass(frozen=True)
class Welcomed:
    member: int
    incarnation: str
    token: bytes


@dataclass(frozen=True)
class Rejected:
    text: str


@dataclass(frozen=True)
class Halt:
    epoch: int
    round: int


@dataclass(frozen=True)
class Adopt:
    view: View
    outcomes: Mapping[int, Outcome]
    admitted: bool
    broken: tuple[tuple[int, int], ...]
    keys: Mapping[int, bytes] = field(default_factory=dict)  # by member: for connections with it


@dataclass(frozen=True)
class Inquire:
    epoch: int
    gid: int
    seq: int


@dataclass(frozen=True)
class Pending:
    count: int


@dataclass(frozen=True)
class Dismissed:
    """The peer is out of the group. ``unknown``: the coordinator does not know it (a restarted one)."""

    cause: str
    unknown: bool = False


@dataclass(frozen=True)
class Left:
    pass


CoordinatorEffect = Send | Ping | Note
PeerEffect = Send | Welcomed | Rejected | Halt | Adopt | Inquire | Pending | Dismissed | Left
