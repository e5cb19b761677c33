"""What the state machines want done. Drivers carry it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..types import Member, Outcome, TrafficPlan, View, Way
from .chronicle import Event


@dataclass(frozen=True)
class Send:
    """Send ``message`` to the peer whose connection is called ``key``."""

    key: bytes
    message: Mapping[str, Any]


@dataclass(frozen=True)
class Say:
    """Send ``message`` to the coordinator at the peer's line number ``line``."""

    line: int
    message: Mapping[str, Any]


@dataclass(frozen=True)
class Remember:
    """Write down what ``group`` has come to before any later effect is carried out."""

    group: str
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Probe:
    """Find out whether anything listens at the data address of ``member``, and tell `probed`."""

    group: str
    member: Member


@dataclass(frozen=True)
class Replan:
    """Fit a plan to the measured ``rows`` (source, target, nanoseconds, bytes/s, streams), and tell `planned`. ``order``: of the
    last plan; ``effort``: how often its order has been searched for already."""

    group: str
    view: View
    rows: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]
    effort: int


@dataclass(frozen=True)
class Ping:
    """Send pulse ``number`` to a peer's echo."""

    key: bytes
    number: int


@dataclass(frozen=True)
class Note:
    """Something that a person who watches the coordinator wants to know. ``event``: the same for programs."""

    text: str
    event: Event | None = None


@dataclass(frozen=True)
class Heard:
    """A member has told something of its health, or of its links, that is of use beside the membership."""

    group: str
    member: int
    message: dict[str, Any]


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
    """Freeze, and answer on ``line``."""

    line: int
    epoch: int
    round: int


@dataclass(frozen=True)
class Adopt:
    view: View
    outcomes: Mapping[int, Outcome]
    admitted: bool
    broken: tuple[tuple[int, int], ...]
    keys: Mapping[int, bytes] = field(default_factory=dict)  # by member: for connections with it
    ways: tuple[Way, ...] = ()
    booth: tuple[int, int, bytes] | None = None  # of the coordinator: port, number, key


@dataclass(frozen=True)
class Reroute:
    """The two members of ``way`` come by connections in that way from now on."""

    way: Way


@dataclass(frozen=True)
class Wanted:
    """A link that one of its ends waits for: for communicator ``gid``, its ``streams`` from ``stream`` on."""

    member: int
    gid: int
    purpose: int
    stream: int
    streams: int


@dataclass(frozen=True)
class Inquire:
    """Tell, on ``line``, what operation ``seq`` is."""

    line: int
    epoch: int
    gid: int
    seq: int


@dataclass(frozen=True)
class LookAt:
    """Links with these members are to be measured now."""

    members: tuple[int, ...]


@dataclass(frozen=True)
class Planned:
    """A plan to adopt at the next safe point of view ``epoch`` at which all members have it."""

    epoch: int
    plan: TrafficPlan


@dataclass(frozen=True)
class Pending:
    count: int


@dataclass(frozen=True)
class Dismissed:
    """The peer is out of the group."""

    cause: str


@dataclass(frozen=True)
class Left:
    pass


CoordinatorEffect = Send | Ping | Note | Remember | Probe | Replan | Heard
PeerEffect = (
    Say
    | Welcomed
    | Rejected
    | Halt
    | Adopt
    | Reroute
    | Wanted
    | Inquire
    | LookAt
    | Planned
    | Pending
    | Dismissed
    | Left
)


class Outbox:
    """What the machines of one group at its coordinator want done, in order, until their driver takes it."""

    def __init__(self) -> None:
        self._effects: list[CoordinatorEffect] = []

    def put(self, *effects: CoordinatorEffect) -> None:
        self._effects.extend(effects)

    def send(self, key: bytes, message: Mapping[str, Any]) -> None:
        self.put(Send(key, message))

    def note(self, text: str, event: Event | None = None) -> None:
        self.put(Note(text, event))

    def drain(self) -> list[CoordinatorEffect]:
        effects, self._effects = self._effects, []
        return effects
