"""How far one peer has got in one communicator, and what a view change makes of it.

States of the operation with sequence number ``s`` at one peer:

    event                          before                after                 allowed
    -----------------------------  --------------------  --------------------  ----------------------------------
    enter(s)                       committed = s-1       entered = s           not halted; s not consumed by a view
    finish(s)                      entered = s           complete = s          not halted, no new view since enter
    commit(s)                      complete = s          committed = s         not halted, no new view since enter, and all
                                                                               members told us that they are complete at s
    halt()                         any                   halted                freezes the three numbers and reports them; first,
                                                                               complete = entered if a witness says so
    adopt(epoch, outcome)          halted                not halted            complete = committed = outcome.decided

Why all survivors agree. The coordinator hands out ``decided`` = min over the survivors of the reported ``complete``.
(1) Whoever committed s knew that every member was complete at s, and complete never shrinks before an adopt; so every
survivor reports complete >= s, and decided >= s: what anybody has returned, everybody returns, also if the peer that
returned it is dead by now. (2) For s > decided some survivor was not complete when it froze, so nobody has ever
committed s, and nobody will: commit is refused from the freeze on, and frames of the old epoch are dropped after it.
But where all of them have called something else at s, it is s - 1; `membership.round` argues why nobody has committed s then.
(3) A survivor's complete is at most committed + 1, so at most one operation per communicator is open to decision.
A witness is what members share besides messages: `windows` says why (1) to (3) hold with it.
Inputs stay intact on abort because an executor never writes them (or restores them before the call goes on).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from ..clock import SYSTEM, Clock
from ..types import Call, GroupReport, Outcome, Verdict, View


@dataclass(frozen=True)
class Failure:
    """Operations ``first`` to ``last`` have failed everywhere, when ``view`` was adopted."""

    first: int
    last: int
    verdict: Verdict
    view: View


class Halted(Exception):
    """The group is changing its view; the operation must wait for the outcome."""


class Progress:
    """Thread-safe record of one communicator. ``changed`` is notified at every adopt and close."""

    def __init__(self, gid: int, view: View, consumed: int, clock: Clock = SYSTEM):
        self.gid = gid
        self.view = view  # of the communicator's members, as of the last adopt
        self.lock = threading.RLock()
        self.changed = clock.condition(self.lock)
        self.epoch = view.epoch
        self.halted = False
        self.failure: Exception | None = None  # set once: this communicator can do nothing any more
        self.called = consumed  # highest seq handed out to a call of the user
        self.entered = consumed
        self.complete = consumed
        self.committed = consumed
        self.call: Call | None = None  # what `entered` stands for
        self.witness: Callable[[int], int] | None = (
            None  # (epoch) -> an operation that is complete though this peer was not told
        )
        self._calls: tuple[tuple[int, Call | None], ...] = ((consumed, None),) * 2  # by seq, the last two entered
        self._asked = 0  # a seq that the coordinator wants to hear of once it is entered
        self._failed: list[Failure] = []  # ascending

    def take(self) -> int:
        """The sequence number of the next call. Callers hold the communicator's order of calls."""
        self.called += 1
        return self.called

    def enter(self, seq: int, call: Call) -> bool:
        """Begin ``seq`` (again, after an abort). True when the coordinator has asked for it. Raises Halted."""
        with self.lock:
            if self.halted or self.failure or self.committed >= seq:
                raise Halted  # `resolve` tells what has become of seq
            assert self.committed == self.complete == seq - 1, (self.committed, self.complete, seq)
            self.entered = seq
            self.call = call
            before, last = self._calls
            self._calls = (before if last[0] == seq else last), (seq, call)
            asked = self._asked == seq
            self._asked = 0
            return asked

    def finish(self, epoch: int, seq: int) -> None:
        """The data phase of ``seq``, begun in ``epoch``, is done here. Raises Halted."""
        with self.lock:
            if self.halted or self.failure or self.epoch != epoch:
                raise Halted
            assert self.entered == seq and self.complete == seq - 1
            self.complete = seq

    def commit(self, epoch: int, seq: int) -> None:
        """All members of ``epoch`` are complete at ``seq``: it may be returned. Raises Halted, also when a view change
        has settled ``seq`` meanwhile."""
        with self.lock:
            if self.halted or self.failure or self.epoch != epoch:
                raise Halted
            assert self.complete == seq and self.committed == seq - 1
            self.committed = seq

    def halt(self) -> GroupReport:
        with self.changed:
            if not self.halted and self.witness is not None and self.witness(self.epoch) == self.complete + 1:
                assert self.entered == self.complete + 1
                self.complete = self.entered
            self.halted = True
            self.changed.notify_all()
            return GroupReport(self.complete, self.entered, self.view.ids)

    def inquire(self, seq: int) -> Call | None:
        """What seq stands for here, also if this peer has gone on to the next one, which no member can be ahead of. None if it
        is not entered, and a note to tell when it is."""
        with self.changed:
            if self.entered < seq:
                self._asked = seq
                return None
            return next((call for number, call in self._calls if number == seq), None)

    def adopt(self, view: View, outcome: Outcome) -> None:
        with self.changed:
            assert view.epoch > self.epoch, (view.epoch, self.epoch)
            assert self.committed <= outcome.decided <= self.complete, (self, outcome)
            self.view = view
            self.epoch = view.epoch
            if outcome.consumed > outcome.decided:
                verdict = outcome.verdict or Verdict("lost", "the view changed")
                self._failed.append(Failure(outcome.decided + 1, outcome.consumed, verdict, view))
            self.committed = self.complete = self.entered = outcome.consumed
            self.halted = False
            self.changed.notify_all()

    def fail(self, failure: Exception) -> None:
        """Nothing will ever be decided here again: every call raises ``failure``."""
        with self.changed:
            if self.failure is None:
                self.failure = failure
            self.changed.notify_all()

    def resolve(self, seq: int, epoch: int, patience: Callable[[], None]) -> Failure | bool:
        """Wait until a view after ``epoch`` has been adopted, then tell about ``seq``.

        True: it is committed; a Failure: it has failed; False: run it (again). ``patience`` is called now and then
        while waiting and ends the wait by raising, as does a failure of the whole communicator.
        """
        while True:
            with self.changed:
                fate = self._fate(seq, epoch)
                if fate is None:
                    self.changed.wait(0.1)
                    fate = self._fate(seq, epoch)
            if fate is not None:
                return fate
            patience()  # without the lock: it may end the whole communicator

    def _fate(self, seq: int, epoch: int) -> Failure | bool | None:
        if self.failure is not None:
            raise self.failure
        while self._failed and self._failed[0].last < seq:
            self._failed.pop(0)
        if self._failed and self._failed[0].first <= seq:
            return self._failed[0]
        if seq <= self.committed:
            return True
        return False if self.epoch > epoch and not self.halted else None

    def __repr__(self) -> str:
        return (
            f"Progress(gid={self.gid}, epoch={self.epoch}, entered={self.entered}, complete={self.complete}, "
            f"committed={self.committed}, halted={self.halted})"
        )
