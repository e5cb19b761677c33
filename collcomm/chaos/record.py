"""What one peer's event log tells, read while it is written."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class ViewChange(NamedTuple):
    """Moments of the monotonic clock; ``halted`` is None where this peer did not freeze for it."""

    epoch: int
    halted: float | None
    adopted: float
    members: frozenset[int]


class Progress(NamedTuple):
    """At ``time`` so much was done; ``gap``: the longest pause between two operations since the entry before, and its end."""

    time: float
    operations: int
    steps: int
    gap: float
    gap_end: float


@dataclass
class Record:
    """Of one process, from ``started`` on."""

    name: str
    path: Path
    started: float
    pid: int = 0
    member: int | None = None  # its newest number
    joined: float = 0.0
    views: list[ViewChange] = field(default_factory=list)
    firsts: dict[int, float] = field(default_factory=dict)  # epoch -> when the first operation was completed in it
    progress: list[Progress] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)
    seconds_lost: float = 0.0
    ended: float = 0.0  # the process has
    code: int | None = None
    _position: int = 0

    @property
    def last_sign(self) -> float:
        """When it last joined or was known to complete an operation."""
        return max(
            self.joined, self.progress[-1].time if self.progress else 0.0, max(self.firsts.values(), default=0.0)
        )

    def read(self) -> None:
        """Take in what has been written since the last time."""
        with self.path.open("rb") as file:
            file.seek(self._position)
            data = file.read()
        end = data.rfind(b"\n") + 1  # the last line may be half written
        self._position += end
        for line in data[:end].splitlines():
            self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        at, kind = event["time"], event["event"]
        self.pid = event["pid"]
        self.seconds_lost = event["seconds_lost"]
        if kind == "joined":
            self.member, self.joined = event["member"], at
            self.views.append(ViewChange(event["epoch"], None, at, frozenset(event["members"])))
        elif kind == "view":
            self.views.append(ViewChange(event["epoch"], event["halted"], at, frozenset(event["members"])))
        elif kind == "first":
            self.firsts[event["epoch"]] = at
        elif kind == "progress":
            self.progress.append(Progress(at, event["operations"], event["steps"], event["gap"], event["gap_end"]))
        elif kind == "ended":
            self.causes.append(event["cause"])
            self.progress.append(Progress(at, event["operations"], event["steps"], 0.0, at))
