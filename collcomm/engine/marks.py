"""When what happened to the operation under way, for whoever records it."""

from __future__ import annotations

from typing import Protocol

from .request import Request


class Recorder(Protocol):
    """Hears of each operation when it has ended, and of what it moved over each connection. Called on the hot path: must not
    block, nor raise. Times are of the monotonic clock, 0.0 for what did not happen."""

    def operation(
        self,
        gid: int,
        epoch: int,
        seq: int,
        kind: str,
        nbytes: int,
        algorithm: str,
        enter: float,
        first: float,
        last: float,
        commit: float,
        exit: float,
        waited: float,
        outcome: str,
    ) -> None: ...

    def transfer(
        self,
        gid: int,
        epoch: int,
        seq: int,
        member: int,
        stream: int,
        incoming: bool,
        ready: float,
        first: float,
        done: float,
        nbytes: int,
    ) -> None: ...

    def failed(self, outcome: str) -> None:
        """An operation has ended with that error. Off the hot path: it may take its time."""


class Marks:
    """Of one communicator, set anew by each attempt. ``request``: of the call under way, or of the last, which came at
    ``enter``; ``first``: when anything came from others; ``last``: when this rank had all;
    ``waited``: seconds in which nothing came for some milliseconds and longer; ``waiting_on``: ranks for which it waits, as of
    the last such moment."""

    __slots__ = (
        "algorithm",
        "commit",
        "enter",
        "epoch",
        "first",
        "idle_since",
        "last",
        "moved",
        "request",
        "waited",
        "waiting_on",
    )

    def __init__(self) -> None:
        self.request: Request | None = None
        self.enter = 0.0
        self.algorithm = ""
        self.epoch = 0
        self.first = self.last = self.commit = 0.0
        self.waited = 0.0
        self.idle_since = 0.0  # 0.0: it is not idle
        self.moved = 0.0  # when something did, after an idle moment
        self.waiting_on: tuple[int, ...] = ()

    def begin(self, epoch: int) -> None:
        self.epoch = epoch
        self.first = self.last = self.commit = self.waited = self.idle_since = self.moved = 0.0
        self.waiting_on = ()
