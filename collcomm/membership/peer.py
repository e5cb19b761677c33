"""A peer's state machine: what the coordinators' messages mean to it, and what it says by itself. Events in, effects out.

    state     message                    to         effect
    --------  -------------------------  ---------  ------------------------------------------------
    joining   welcome                    waiting    Welcomed
    waiting   welcome (as another one)   waiting    Welcomed: the group was begun anew before it took us in
    joining   rejected                   gone       Rejected
    waiting   view (with us in it)       member     Adopt
    member    halt (this epoch)          halted     Halt; the driver answers with `state`
    halted    view (a later epoch)       member     Adopt
    member, halted: plan (this epoch)    same       Planned
    member, halted: way (this epoch)     same       Reroute: how links with another member come about
    member    called (this epoch)        same       Wanted: another member waits for a link
    joining   who                        joining    `join`, again
    waiting, member, halted: who         same       `report`: all that a coordinator needs to take the group over
    any       evicted                    gone       Dismissed
    any       left                       gone       Left
    gone      any                        gone       (none)

There may be several coordinators, one per line, of which at most one leads at a time; the others answer `standby` or
nothing. So requests that must not get lost (`join`, `here`) go to all, and the line on which something else was heard
last is the leader's.

Invariants: views are adopted in the order of their epochs, none twice. What a peer remembers for the coordinator's sake:
its own row, the run's name, the last view as it was announced, and the last halt: the epoch to come, and who was to go on.
"""

from __future__ import annotations

from enum import Enum

from ..types import Member, Outcome, Verdict, View, Way
from .effects import (
    Adopt,
    Dismissed,
    Halt,
    Inquire,
    Left,
    LookAt,
    PeerEffect,
    Pending,
    Planned,
    Rejected,
    Reroute,
    Say,
    Wanted,
    Welcomed,
)
from .messages import PROFILE, SECRETS, Message
from .plans import plan_of

HERE_SECONDS = 0.5  # a sign of life, said to every coordinator


class State(Enum):
    JOINING = "joining"
    WAITING = "waiting"
    MEMBER = "member"
    HALTED = "halted"
    GONE = "gone"


class PeerMachine:
    """``request``: the `join` message of this peer; ``lines``: how many coordinators it knows of."""

    def __init__(self, request: Message, lines: int = 1):
        self.state = State.JOINING
        self.member = -1
        self.epoch = -1
        self.leader = 0  # the line whose coordinator spoke last as one that leads
        self._request = request
        self._lines = lines
        self._run: Message = {}  # incarnation and token
        self._announced: Message | None = None  # the last view adopted
        self._last_halt: tuple[int, int, list[int]] = (0, 0, [])  # next epoch, round, heirs
        self._here_at: float | None = None

    def tick(self, now: float) -> list[PeerEffect]:
        """Time passes; call every ``HERE_SECONDS`` or oftener."""
        if self.state is State.GONE or (self._here_at is not None and now - self._here_at < HERE_SECONDS):
            return []
        self._here_at = now
        message = self._request if self.state is State.JOINING else {"t": "here"}
        return [Say(line, message) for line in range(self._lines)]

    def say(self, message: Message) -> list[PeerEffect]:
        """Something that the leading coordinator should know. It may get lost: whoever cares says it again."""
        return [Say(self.leader, message)]

    def receive(self, line: int, message: Message) -> list[PeerEffect]:
        """A valid message from the coordinator of ``line``."""
        if self.state is State.GONE or message["t"] == "standby":
            return []
        self.leader = line
        kind = message["t"]
        if kind == "welcome" and self.state in (State.JOINING, State.WAITING):
            run = {"incarnation": message["incarnation"], "token": message["token"]}
            if (self.member, self._run) == (message["member"], run):
                return []  # said twice
            self.state = State.WAITING
            self.member = message["member"]
            self._run = run
            return [Welcomed(message["member"], message["incarnation"], message["token"])]
        if kind == "rejected" and self.state is State.JOINING:
            self.state = State.GONE
            return [Rejected(message["text"])]
        if kind == "halt" and self.state in (State.MEMBER, State.HALTED) and message["epoch"] == self.epoch:
            self.state = State.HALTED
            self._last_halt = max(self._last_halt, (message["next"], message["round"], message["heirs"]))
            return [Halt(line, message["epoch"], message["round"])]
        if kind == "view":
            return self._view(message)
        if kind == "pending":
            return [Pending(message["count"])]
        if kind == "plan" and message["epoch"] == self.epoch:
            return [Planned(self.epoch, plan_of(message["plan"]))]
        if kind == "look" and message["epoch"] == self.epoch:
            return [LookAt(tuple(message["members"]))]
        if kind == "inquire" and message["epoch"] == self.epoch:
            return [Inquire(line, message["epoch"], message["gid"], message["seq"])]
        if kind == "way" and message["epoch"] == self.epoch:
            way = Way.of(message["way"])
            return [Reroute(way)] if self.member in way.pair else []
        if kind == "called" and self.state is State.MEMBER and message["epoch"] == self.epoch:
            return [Wanted(*(message[field] for field in ("member", "gid", "purpose", "stream", "streams")))]
        if kind == "who":
            return [Say(line, self._request if self.state is State.JOINING else self._report())]
        if kind == "left":
            self.state = State.GONE
            return [Left()]
        if kind == "evicted":
            self.state = State.GONE
            return [Dismissed(message["cause"])]
        return []

    def _view(self, message: Message) -> list[PeerEffect]:
        plan = None if message["plan"] is None else plan_of(message["plan"])
        view = View(message["epoch"], tuple(Member(*row) for row in message["members"]), plan)
        if view.epoch <= self.epoch or self.state is State.JOINING or view.rank_of(self.member) is None:
            return []
        self.epoch = view.epoch
        self.state = State.MEMBER
        self._announced = {name: field for name, field in message.items() if name not in SECRETS}
        outcomes = {gid: _outcome(row) for gid, row in message["outcomes"].items()}
        broken = tuple((first, second) for first, second in message["broken"])
        keys = dict(zip(view.ids, message["keys"], strict=False))
        booth = None if message["booth"] is None else tuple(message["booth"])
        ways = tuple(way for way in map(Way.of, message["ways"]) if self.member in way.pair)
        return [Adopt(view, outcomes, message["admitted"], broken, keys, ways, booth)]

    def _report(self) -> Message:
        request = self._request
        own = [self.member, *(request[field] for field in PROFILE)]
        return {
            "t": "report",
            **{field: request[field] for field in ("group", "min_size", "on_failure")},
            **self._run,
            "member": own,
            **dict(zip(("next", "round", "heirs"), self._last_halt, strict=True)),
            "view": self._announced,
        }


def _outcome(row: list[object]) -> Outcome:
    decided, consumed, verdict = row
    assert isinstance(decided, int) and isinstance(consumed, int)
    if verdict is None:
        return Outcome(decided, consumed)
    assert isinstance(verdict, list)
    kind, text, culprits = verdict
    return Outcome(decided, consumed, Verdict(kind, text, tuple(culprits)))
