"""A peer's state machine: what the coordinator's messages mean to it. Events in, effects out.

    state     message                    to         effect
    --------  -------------------------  ---------  ------------------------------------------------
    joining   welcome                    waiting    Welcomed
    joining   rejected                   gone       Rejected
    waiting   view (with us in it)       member     Adopt
    member    halt (this epoch)          halted     Halt; the driver answers with `state`
    halted    view (a later epoch)       member     Adopt
    any       evicted, unknown           gone       Dismissed
    any       left                       gone       Left
    gone      any                        gone       (none)

Invariants: views are adopted in the order of their epochs, none twice; a member adopts a view only after it has frozen
and reported (it is in the coordinator's power alone to break this, and it is asserted there).
"""

from __future__ import annotations

from enum import Enum

from ..types import Member, Outcome, Verdict, View
from .effects import Adopt, Dismissed, Halt, Inquire, Left, PeerEffect, Pending, Rejected, Welcomed
from .messages import Message


class State(Enum):
    JOINING = "joining"
    WAITING = "waiting"
    MEMBER = "member"
    HALTED = "halted"
    GONE = "gone"


class PeerMachine:
    def __init__(self) -> None:
        self.state = State.JOINING
        self.member = -1
        self.epoch = -1

    def receive(self, message: Message) -> list[PeerEffect]:
        """A valid message from the coordinator."""
        if self.state is State.GONE:
            return []
        kind = message["t"]
        if kind == "welcome" and self.state is State.JOINING:
            self.state = State.WAITING
            self.member = message["member"]
            return [Welcomed(message["member"], message["incarnation"], message["token"])]
        if kind == "rejected" and self.state is State.JOINING:
            self.state = State.GONE
            return [Rejected(message["text"])]
        if kind == "halt" and self.state in (State.MEMBER, State.HALTED) and message["epoch"] == self.epoch:
            self.state = State.HALTED
            return [Halt(message["epoch"], message["round"])]
        if kind == "view":
            return self._view(message)
        if kind == "pending":
            return [Pending(message["count"])]
        if kind == "inquire" and message["epoch"] == self.epoch:
            return [Inquire(message["epoch"], message["gid"], message["seq"])]
        if kind == "left":
            self.state = State.GONE
            return [Left()]
        if kind == "evicted":
            self.state = State.GONE
            return [Dismissed(message["cause"])]
        if kind == "unknown" and self.state is not State.JOINING:
            self.state = State.GONE
            return [Dismissed("the coordinator does not know this group any more (it was restarted)", unknown=True)]
        return []

    def _view(self, message: Message) -> list[PeerEffect]:
        view = View(message["epoch"], tuple(Member(*row) for row in message["members"]))
        if view.epoch <= self.epoch or view.rank_of(self.member) is None:
            return []
        self.epoch = view.epoch
        self.state = State.MEMBER
        outcomes = {gid: _outcome(row) for gid, row in message["outcomes"].items()}
        broken = tuple((first, second) for first, second in message["broken"])
        keys = dict(zip(view.ids, message["keys"], strict=False))
        return [Adopt(view, outcomes, message["admitted"], broken, keys)]


def _outcome(row: list[object]) -> Outcome:
    decided, consumed, verdict = row
    assert isinstance(decided, int) and isinstance(consumed, int)
    if verdict is None:
        return Outcome(decided, consumed)
    assert isinstance(verdict, list)
    kind, text, culprits = verdict
    return Outcome(decided, consumed, Verdict(kind, text, tuple(culprits)))
