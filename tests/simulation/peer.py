"""A simulated peer: the real `PeerMachine` and `Progress`, and a toy engine that runs one collective after another.

The toy collective of operation s in epoch e: every member sends everybody a contribution; who has those of all is
complete, after a while, and says so to everybody (done); who knows that all are done commits. Its value names the
epoch and the members that took part, so that two peers that return values of different attempts are found out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collcomm.engine.progress import Failure, Halted, Progress
from collcomm.membership import PeerMachine
from collcomm.membership.effects import Adopt, Dismissed, Halt, Inquire, Left, PeerEffect, Pending, Rejected, Welcomed
from collcomm.membership.peer import State
from collcomm.types import Call, GroupReport, View

if TYPE_CHECKING:
    from tests.simulation.world import World

HERE_SECONDS = 0.5  # as the agent
STALL_SECONDS = 0.5  # an operation that does not move is reported this often
DEADLINE_SECONDS = 3.0  # of one operation

Value = tuple[int, tuple[int, ...]]  # epoch and members of the attempt that succeeded


class Operation:
    """One call of the user, through all its attempts."""

    def __init__(self, seq: int, call: Call, began: float):
        self.seq = seq
        self.call = call
        self.began = began
        self.epoch = -1  # of the newest attempt
        self.finishing = False
        self.disputed = False
        self.value: Value | None = None


class SimPeer:
    """``key`` names its control connection. It lives from `start` until it crashes, leaves or is evicted."""

    def __init__(self, world: World, name: str):
        self.world = world
        self.name = name
        self.key = name.encode()
        self.machine = PeerMachine()
        self.progress: Progress | None = None
        self.view = View(-1, ())
        self.crashed = False
        self.paused = ""  # "stopped": nothing runs; "stalled": only the pulse answers
        self.inbox: list[Any] = []  # what came meanwhile
        self.member = -1
        self.pending = 0
        self.resolved = 0  # operations of the user that have ended, either way
        self.crash_after: int | None = None  # dies in the middle of a broadcast: after so many more frames
        self.leaving = False
        self.odd_seq = -1  # the operation that it gets wrong
        self.think = 0.0  # extra seconds before its next call
        self.admission: View | None = None  # in step(), since this view
        self._operation: Operation | None = None
        self._contributions: dict[tuple[int, int], dict[int, tuple[int, bool]]] = {}
        self._done: dict[tuple[int, int], set[int]] = {}
        self._early: list[tuple[str, int, int, int, Any]] = []  # frames of epochs to come
        self._accused: set[tuple[int, int]] = set()

    # -- life ------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return not self.crashed and not self.gone

    @property
    def gone(self) -> bool:
        return self.machine.state is State.GONE

    def start(self) -> None:
        self._here()

    def leave(self) -> None:
        self.leaving = True
        self._post({"t": "leave"})

    def resume(self) -> None:
        self.paused = ""
        waiting, self.inbox = self.inbox, []
        for action in waiting:
            self.when_running(action)

    def when_running(self, action: Any) -> None:
        """Do it now, after the pause, or never."""
        if self.crashed:
            return
        if self.paused:
            self.inbox.append(action)
        else:
            action()

    def after(self, seconds: float, action: Any) -> None:
        self.world.after(seconds, lambda: self.when_running(action))

    def _here(self) -> None:
        if self.gone:
            return
        joining = self.machine.state is State.JOINING
        self._post(self.world.join_message(self.name) if joining else {"t": "here"})
        if self.admission is not None and self.progress is not None and not self.progress.halted:
            self._post({"t": "ready", "epoch": self.progress.epoch})  # said again, as a session does
        self.after(HERE_SECONDS, self._here)

    # -- control ---------------------------------------------------------------------------------------------

    def _post(self, message: dict[str, Any]) -> None:
        self.world.to_coordinator(self, message)

    def receive(self, message: dict[str, Any]) -> None:
        for effect in self.machine.receive(message):
            self._carry_out(effect)

    def _carry_out(self, effect: PeerEffect) -> None:
        if isinstance(effect, Welcomed):
            self.member = effect.member
        elif isinstance(effect, Halt):
            groups = {gid: [r.complete, r.entered, list(r.members)] for gid, r in self._halt().items()}
            self._post({"t": "state", "epoch": effect.epoch, "round": effect.round, "groups": groups})
        elif isinstance(effect, Adopt):
            self.world.ledger.adopted(self, effect)
            self._adopt(effect)
        elif isinstance(effect, Pending):
            self.pending = effect.count
        elif isinstance(effect, Inquire):
            call = self.progress.inquire(effect.seq) if self.progress else None
            if call is not None:
                self._say_call(effect.epoch, effect.seq, call)
        else:
            assert isinstance(effect, Dismissed | Rejected | Left), effect
            if self.progress is not None:
                self.progress.fail(RuntimeError("out of the group"))

    def _halt(self) -> dict[int, GroupReport]:
        return {} if self.progress is None else {0: self.progress.halt()}

    def _say_call(self, epoch: int, seq: int, call: Call) -> None:
        self._post({"t": "call", "epoch": epoch, "gid": 0, "seq": seq, "call": [call.fingerprint, call.text]})

    def _adopt(self, effect: Adopt) -> None:
        previous, self.view = self.view, effect.view
        outcome = effect.outcomes[0]
        if self.progress is None:
            self.progress = Progress(0, self.view, outcome.consumed)
            self._call_next()
        else:
            self.progress.adopt(self.view, outcome)
            if self._operation is not None:
                self._settle(self._operation, previous.epoch)
            elif self.admission is not None:
                self._await_admission(effect.admitted)
        early, self._early = self._early, []
        for frame in early:
            self.frame(*frame)

    def link_closed(self, member: int) -> None:
        """The connection to ``member`` is gone. Said once per view, and not while it changes, as the engine does."""
        progress = self.progress
        if progress is None or progress.halted or self.gone or member not in progress.view.ids:
            return
        if (progress.epoch, member) not in self._accused:
            self._accused.add((progress.epoch, member))
            self._post({"t": "accuse", "epoch": progress.epoch, "member": member, "evidence": "closed", "text": "EOF"})

    # -- the toy engine --------------------------------------------------------------------------------------

    def _call_next(self) -> None:
        think, self.think = self.think, 0.0
        self.after(think + self.world.random.uniform(0.02, 0.3), self._call)

    def _call(self) -> None:
        if self.gone or self.leaving:
            return
        assert self.progress is not None and self._operation is None
        seq = self.progress.take()
        odd = seq == self.odd_seq
        self._operation = Operation(seq, Call(seq + 1000 * odd, f"operation {seq}{' (odd)' * odd}"), self.world.now)
        self._attempt(self._operation)

    def _attempt(self, operation: Operation) -> None:
        progress = self.progress
        assert progress is not None
        try:
            asked = progress.enter(operation.seq, operation.call)
        except Halted:
            if not progress.halted and not self.gone:  # a view has settled it before we called it
                self._settle(operation, -1)
            return
        operation.epoch = progress.epoch
        operation.finishing = operation.disputed = False
        operation.value = None
        if asked:
            self._say_call(progress.epoch, operation.seq, operation.call)
        self._broadcast("contribution", operation, (operation.call.fingerprint, self.pending > 0))
        self.after(STALL_SECONDS, lambda: self._watch(operation, operation.epoch))

    def _broadcast(self, kind: str, operation: Operation, payload: Any) -> None:
        assert self.progress is not None
        for member in self.world.shuffled(self.progress.view.ids):
            if self.crash_after is not None:
                self.crash_after -= 1
                if self.crash_after < 0:
                    self.world.crash(self)
                    return
            if member != self.member:
                self.world.to_peer(self, member, (kind, self.member, operation.epoch, operation.seq, payload))
        self.frame(kind, self.member, operation.epoch, operation.seq, payload)

    def frame(self, kind: str, source: int, epoch: int, seq: int, payload: Any) -> None:
        """A frame of a link; those of old epochs are dropped, those of epochs to come wait."""
        if self.gone:
            return
        if self.progress is None or epoch > self.progress.epoch:
            self._early.append((kind, source, epoch, seq, payload))
        elif epoch == self.progress.epoch:
            if kind == "contribution":
                self._contributions.setdefault((epoch, seq), {})[source] = payload
            else:
                self._done.setdefault((epoch, seq), set()).add(source)
            if self._operation is not None:
                self._advance(self._operation)

    def _advance(self, operation: Operation) -> None:
        place = (operation.epoch, operation.seq)
        progress = self.progress
        assert progress is not None
        if operation.epoch != progress.epoch or set(self._contributions.get(place, ())) != set(progress.view.ids):
            return
        if len({fingerprint for fingerprint, _ in self._contributions[place].values()}) > 1:
            if not operation.disputed and not progress.halted:
                operation.disputed = True
                self._tell("mismatch", operation)
        elif not operation.finishing:
            operation.finishing = True
            self.after(self.world.random.choice((0.0, 0.005, 0.05)), lambda: self._finish(operation, place[0]))
        elif operation.value is not None and self._done.get(place) == set(progress.view.ids):
            self._commit(operation)

    def _finish(self, operation: Operation, epoch: int) -> None:
        progress = self.progress
        assert progress is not None
        if operation is not self._operation or operation.epoch != epoch:
            return
        try:
            progress.finish(epoch, operation.seq)
        except Halted:
            return
        operation.value = (epoch, progress.view.ids)
        self._broadcast("done", operation, None)

    def _commit(self, operation: Operation) -> None:
        progress = self.progress
        assert progress is not None
        try:
            progress.commit(operation.epoch, operation.seq)
        except Halted:
            return
        assert operation.value is not None
        self._returned(operation, operation.value)

    def _settle(self, operation: Operation, epoch: int) -> None:
        """A view has come: what has become of ``operation``, last attempted in ``epoch`` or before?"""
        progress = self.progress
        assert progress is not None
        fate = progress.resolve(operation.seq, epoch, _never)
        if isinstance(fate, Failure):
            self._returned(operation, fate.verdict.kind)
        elif fate:
            assert operation.value is not None, "committed by decision, and not complete here"
            self._returned(operation, operation.value)
        else:
            self._attempt(operation)

    def _returned(self, operation: Operation, value: Value | str) -> None:
        """The call of the user is over: a value, or the kind of its error."""
        self.world.ledger.returned(self, operation.seq, value)
        self.resolved += 1
        self._operation = None
        seen = self._contributions.get((value[0], operation.seq), {}) if isinstance(value, tuple) else {}
        if any(pending for _, pending in seen.values()):  # the same at all who return this value: they go to step()
            self.admission = self.view
            self._await_admission(self.progress is not None and self.progress.epoch > value[0] and self._was_admitted())
        else:
            self._call_next()

    def _was_admitted(self) -> bool:
        return self.world.ledger.admitted.get(self.view.epoch, False)

    def _await_admission(self, admitted: bool) -> None:
        if admitted:
            self.admission = None
            self._call_next()
        elif self.progress is not None:
            self._post({"t": "ready", "epoch": self.progress.epoch})

    def _watch(self, operation: Operation, epoch: int) -> None:
        """Report an operation that does not end, as often as the engine does."""
        progress = self.progress
        if operation is not self._operation or operation.epoch != epoch or progress is None or self.gone:
            return
        if not progress.halted:
            self._tell("expired" if self.world.now - operation.began > DEADLINE_SECONDS else "stalled", operation)
        self.after(STALL_SECONDS, lambda: self._watch(operation, epoch))

    def _tell(self, kind: str, operation: Operation) -> None:
        assert self.progress is not None
        message = {
            "t": kind,
            "epoch": operation.epoch,
            "gid": 0,
            "seq": operation.seq,
            "call": [operation.call.fingerprint, operation.call.text],
            "members": list(self.progress.view.ids),
        }
        if kind != "mismatch":
            there = self._contributions.get((operation.epoch, operation.seq), {})
            message["waiting_on"] = [member for member in self.progress.view.ids if member not in there]
        self._post(message)


def _never() -> None:
    raise AssertionError("a fate that a view has just decided is not waited for")
