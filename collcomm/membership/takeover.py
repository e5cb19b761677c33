"""A group that its coordinator knows nothing of yet: it hears reports until `Recovery` says how to go on, and becomes whole.

Newcomers are heard when the group is whole.
"""

from __future__ import annotations

from ..types import View
from .announcement import Run
from .effects import CoordinatorEffect, Note, Probe, Send
from .group import GroupMachine
from .messages import MAX_MEMBERS, Message
from .presets import Limits
from .recovery import OTHER_RUN, Recovery

TICK_SECONDS = 0.05


class Takeover:
    """``record``: the store's, None if there is none; ``run``: incarnation and token of the group.

    ``fresh``: the run that is begun when it turns out that nobody has a view. One may have been announced to somebody who is
    gone, and its epoch must not come again in the same run.
    """

    def __init__(
        self, name: str, record: Message | None, run: Run, fresh: Run, limits: Limits, secret: bytes, now: float
    ):
        self.name = name
        self.whole: GroupMachine | None = None  # what it has become
        self.view = View(0, ())
        self.history: list[tuple[float, int, str, str]] = []
        self._run = run
        self._fresh = fresh
        self._limits = limits
        self._secret = secret
        self._recovery = Recovery(record, now)
        self._joins: dict[bytes, Message] = {}

    def receive(self, now: float, key: bytes, message: Message) -> list[CoordinatorEffect]:
        reports, kind = self._recovery.reports, message["t"]
        if kind == "report" and message["incarnation"] != self._run[0]:
            if message["view"] is None:
                return []  # it waits; it is taken in when the group is whole
            return [Send(key, {"t": "evicted", "cause": OTHER_RUN})]
        if kind == "report":
            reports[key] = message
            return [Send(key, {"t": "alive"}), *self._try(now)]
        if kind == "leave":
            reports.pop(key, None)
            return [Send(key, {"t": "left"})]
        if kind == "join":
            self._joins[key] = message
            if len(self._joins) > MAX_MEMBERS:
                del self._joins[next(iter(self._joins))]  # it says so again
            return []
        return [Send(key, {"t": "alive" if key in reports else "who"})]

    def disconnected(self, now: float, key: bytes) -> list[CoordinatorEffect]:
        self._recovery.reports.pop(key, None)  # it reports again if it comes back
        self._joins.pop(key, None)
        return []

    def echo(self, now: float, key: bytes, number: int) -> list[CoordinatorEffect]:
        return []

    def probed(self, now: float, member: int, refused: bool) -> list[CoordinatorEffect]:
        """Whether nothing listens at the data address of ``member`` (or something does, or no answer came)."""
        if refused:
            self._recovery.refused.add(member)
        return self._try(now)

    def planned(self, now: float, asked_for: View, plan: Message | None) -> list[CoordinatorEffect]:
        return []  # it was made for the coordinator that was lost

    def tick(self, now: float) -> list[CoordinatorEffect]:
        return self._try(now)

    @property
    def tick_seconds(self) -> float:
        return TICK_SECONDS

    @property
    def empty(self) -> bool:
        return False

    def knows(self, key: bytes) -> bool:
        return key in self._recovery.reports

    def _try(self, now: float) -> list[CoordinatorEffect]:
        if self.whole is not None:
            return []
        recovery, grace = self._recovery, self._limits.recover
        if recovery.best is None:
            return self._hear_newcomers(now, self._begin_anew(now)) if now - recovery.began >= grace else []
        resumption = recovery.conclude(now, grace)
        if resumption is not None:
            self.whole, effects = GroupMachine.resume(
                self.name, self._run, self._limits, self._secret, now, resumption, recovery.reports
            )
            return self._hear_newcomers(now, effects)
        effects = []
        for member in recovery.to_probe(now, grace):
            effects.append(Probe(self.name, member))
            if member.id not in recovery.told:
                recovery.told.add(member.id)
                effects.append(Note(f"group {self.name!r} waits for {member}, of whom nothing was heard yet"))
        return effects

    def _hear_newcomers(self, now: float, effects: list[CoordinatorEffect]) -> list[CoordinatorEffect]:
        assert self.whole is not None
        for key, message in self._joins.items():
            effects += self.whole.receive(now, key, message)
        return effects

    def _begin_anew(self, now: float) -> list[CoordinatorEffect]:
        """All who wait join a new run."""
        self.whole = GroupMachine(self.name, *self._fresh, self._limits, self._secret)
        effects: list[CoordinatorEffect] = [Note(f"group {self.name!r} is begun anew: nobody was in a view yet")]
        for key, report in self._recovery.reports.items():
            effects += self.whole.receive(now, key, report)
        return effects
