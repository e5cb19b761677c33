"""What has happened in a group, for people: a bounded list of events, and how many there were of each kind and cause."""

from __future__ import annotations

from collections import Counter, deque
from enum import Enum
from typing import Any, NamedTuple

MOST_EVENTS = 500
GRAVE = frozenset({"died", "evicted", "finding"})  # kinds that somebody should look at


class Exit(Enum):
    """Why a peer is out: the kind of event, and the cause in two or three words, of which there are few."""

    LEFT = ("left", "left")
    SILENT = ("died", "silent")
    CLOSED = ("died", "connection closed")
    GONE = ("died", "port gone")
    RESTARTED = ("died", "restarted")
    LOST = ("died", "lost with the coordinator")
    HALT = ("evicted", "halt unanswered")
    LINK = ("evicted", "link keeps breaking")
    LIAR = ("evicted", "contradiction")
    JUDGED = ("evicted", "policy")

    @property
    def kind(self) -> str:
        return str(self.value[0])

    @property
    def cause(self) -> str:
        return str(self.value[1])


class Event(NamedTuple):
    """``kind``: "view", "joined", "rejected", "plan", or that of an `Exit`; other rooms add "finding", "recovered" and "action".
    ``at``: seconds, on the coordinator's monotonic clock; ``member``: an id, 0 if it is about none in particular; ``text``: of
    an exit its cause."""

    at: float
    kind: str
    group: str
    epoch: int
    member: int
    name: str
    text: str
    cause: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """For a log: what is known, and nothing else."""
        named = {"member": self.member or None, "name": self.name or None, "cause": self.cause or None}
        known = {key: value for key, value in named.items() if value is not None}
        return {"event": self.kind, "group": self.group, "epoch": self.epoch, **known, "text": self.text}


class Chronicle:
    """Of the group called ``name``."""

    def __init__(self, name: str):
        self.events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self.totals: Counter[tuple[str, str]] = Counter()  # by kind and cause
        self._name = name

    def record(
        self, now: float, kind: str, epoch: int, text: str, member: int = 0, name: str = "", cause: str = ""
    ) -> Event:
        event = Event(now, kind, self._name, epoch, member, name, text, cause)
        self.events.append(event)
        self.totals[kind, cause] += 1
        return event

    def exit(self, now: float, why: Exit, epoch: int, text: str, member: int, name: str) -> Event:
        return self.record(now, why.kind, epoch, text, member, name, why.cause)

    def just_said(self, kind: str, name: str) -> bool:
        """Whether the newest event is of that kind, about that name."""
        return bool(self.events) and (self.events[-1].kind, self.events[-1].name) == (kind, name)

    @property
    def history(self) -> list[tuple[float, int, str, str]]:
        """Time, epoch, who, and "joined" or why it is out."""
        kinds = {"joined", *(why.kind for why in Exit)}
        return [(event.at, event.epoch, event.name, event.text) for event in self.events if event.kind in kinds]
