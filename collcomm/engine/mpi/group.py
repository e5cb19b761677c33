"""One communicator over MPI: runs operations in order, and after a death settles with the other survivors what has become
of the one that it hit.

An operation: its opening (`decision`, `packed`), in which all see whether they have called the same; for large ones the data;
where ranks may die, a barrier at the end, before which nobody returns. The opening is waited for in steps of some
microseconds, so that deadlines, revocation and closing are noticed; the data phase is MPI's own and cannot be interrupted but by
revoking the communicator (`MpiSession`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import (
    CollcommError,
    CollectiveMismatch,
    CollectiveTimeout,
    CommunicatorClosed,
    PeerLost,
)
from ...planner import Choice
from ...transports.base import Link, LinkBroken
from ...transports.mpi import Comm, CommFailed, bound_the_end
from ...types import Outcome, TrafficPlan, Verdict, View
from ..attempt import Attempt, Mismatch
from ..calls import Calls
from ..choosing import Explanation
from ..operation import Operation, Scratch
from ..progress import Failure, Halted, Progress
from ..request import Request
from .attempt import MpiAttempt
from .disagreement import mismatch, texts_of_all, unfit_counts
from .endings import Expired, ending
from .large import Native, Scheduled
from .packed import Packed
from .programs import Program, make_program
from .recovery import Departed, Recovery, Reports
from .turns import LEAVING, Turns

if TYPE_CHECKING:
    from .session import MpiSession

Array = np.ndarray[Any, Any]
COLLECTIVE_LINKS = 0  # purpose of a link
MAX_PROGRAMS = 512
DESERT_SECONDS = 2.0
GRACE_SECONDS = 15.0  # how long the others may take to settle a failure
_ERRORS: dict[str, type[CollcommError]] = {
    "lost": PeerLost,
    "timeout": CollectiveTimeout,
    "mismatch": CollectiveMismatch,
}


class MpiGroup(Calls):
    """``comm``: the members, by rank of ``view``; `Group` over the network is what this stands in for."""

    def __init__(self, session: MpiSession, gid: int, view: View, comm: Comm):
        super().__init__(f"collcomm-mpi-{gid}", view, Progress(gid, view, 0), session.clock, session.recorder)
        self.marks.algorithm = "mpi"
        self.gid = gid
        self.session = session
        self.running_until = 0.0  # deadline of a data phase that runs now
        self.comm = comm
        self._turns = Turns(comm)
        self._reports = Reports()
        self._programs: dict[Request, Program] = {}
        self._scratch = Scratch()
        self._deadline = 0.0
        self._rank = comm.rank
        self._left = False
        self._program_now: Program | None = None
        self._attempt = MpiAttempt(self.progress, self._link, self._look, session.transport.poller)

    def revise(self, plan: TrafficPlan, epoch: int) -> None:
        raise AssertionError("there are no plans for an MPI job")

    def explain(self, kind: str, nbytes: int) -> Explanation:
        """MPI chooses; what it took is known."""
        return self.choosing.explain(kind, nbytes, self.view, Choice("mpi"))

    # -- one operation --------------------------------------------------------------------------------------------------

    def _abandon(self, why: str) -> None:
        self._desert()
        self.session.abandon(why)

    def _carry_out(self, operation: Operation, seq: int, deadline: float) -> Any:
        self.operations += 1
        failed_at = 0.0
        progress = self.progress
        if operation.incoming is not None:
            operation.incoming.fetch_all()
        while True:
            if progress.failure is not None:
                raise progress.failure
            if seq <= progress.committed:
                self._raise_if_failed(operation, seq)
            try:
                result = self._try(operation, seq, deadline)
                break
            except (CommFailed, LinkBroken, Halted, Mismatch, Expired, Departed) as trouble:
                failed_at = failed_at or time.monotonic()
                settled = self._settle(operation, seq, deadline, trouble)
                if settled is not None:
                    result = settled()
                    break
                self.retries += 1
            except CollcommError:
                operation.restore()
                raise
            except BaseException:
                operation.restore()
                self._abandon(f"{operation.request.call.text} was interrupted")
                raise
        if failed_at:
            self.seconds_lost += time.monotonic() - failed_at
        if self.session.events is not None:
            self.session.events.completed()
        self.marks.commit = time.monotonic()
        operation.conclude(result)
        return result

    def _try(self, operation: Operation, seq: int, deadline: float) -> Array | None:
        progress, request = self.progress, operation.request
        operation.view = progress.view
        self.marks.begin(progress.view.epoch)
        progress.entered, progress.call, self._deadline = seq, request.call, deadline
        program = self._programs.get(request)
        if program is None or program.base_epoch != operation.base.epoch:
            program = self._program(operation)
        self._program_now, turns = program, self._turns
        if operation.outgoing is not None:
            operation.outgoing.restart(operation.alive(progress.view))
        packed = type(program) is Packed
        if packed:
            program.fill(seq & 1, operation)  # type: ignore[union-attr]
        elif request.kind == "all_to_all":
            turns.fill_counts(seq, request, operation.alive(progress.view))
        if not turns.exchange(seq, program.fingerprint, self._look):
            self._judge(operation, seq)
        if packed:
            progress.complete = progress.committed = seq
            return program.conclude(seq & 1, operation)  # type: ignore[union-attr]
        if request.kind == "all_to_all" and not request.size:
            self._check_counts(operation, seq)
        operation.result = result = self._move(operation, program, seq)
        progress.complete = seq
        if self.comm.survives:
            self.comm.barrier()
            self.running_until = 0.0
        progress.committed = seq
        return self._finished(operation, result)

    def _move(self, operation: Operation, program: Program, seq: int) -> Array | None:
        moved, request = self.session.transport.moved, operation.request
        if self.comm.survives:
            self.running_until = self._deadline
        if isinstance(program, Scheduled):
            attempt, view = self._attempt, self.progress.view
            attempt.begin(view.epoch, seq, program.fingerprint, self._rank, view.size, self._deadline)
            return program.run(operation, self._scratch, attempt)
        assert isinstance(program, Native)
        result = program.run(self.comm, operation, self._scratch)
        moved[0] += 0 if operation.source is None else operation.source.nbytes
        moved[1] += 0 if result is None else result.size * request.dtype.itemsize
        return result

    def _finished(self, operation: Operation, result: Array | None) -> Array | None:
        if result is not None:
            operation.finish(result, operation.view.size)
        return result

    def _program(self, operation: Operation) -> Program:
        """Raises PeerLost where the operation has lost its meaning in this view: all survivors find the same."""
        view, request, base = operation.view, operation.request, operation.base
        alive = operation.alive(view)
        if len(alive) != view.size:
            self._outdated(operation)
        lost = operation.lost(view)
        if lost is not None:
            self.progress.complete = self.progress.committed = operation.seq
            self._reports.failed, self._reports.late = operation.seq, False
            raise lost
        if len(self._programs) >= MAX_PROGRAMS:
            self._programs.clear()
        program = make_program(request, alive, self._rank, base.epoch, self._turns, self.comm.survives)
        self._programs[request] = program
        return program

    def _outdated(self, operation: Operation) -> None:
        """The caller knows, from another communicator, that a member is gone; this one is to find out. Raises CommFailed or
        Departed."""
        self._turns.exchange(operation.seq, operation.request.fingerprint, self._look)
        raise Departed if self._turns.leavers(operation.seq) else CommFailed("a member is gone")

    def _link(self, rank: int, attempt: Attempt) -> Link:
        member = self.progress.view[rank]
        return self.session.transport.link(self.gid, COLLECTIVE_LINKS, member, attempt.check)

    def _look(self) -> None:
        """While waiting: raise when the wait is over for another reason."""
        failure = self.progress.failure
        if failure is not None:
            raise failure
        if self.comm.is_revoked():
            raise CommFailed("another rank has found a failure")
        if time.monotonic() > self._deadline:
            raise Expired

    def _judge(self, operation: Operation, seq: int) -> None:
        """Not all records are as ours. Raises CollectiveMismatch at all members, or Departed when somebody leaves."""
        if self._turns.leavers(seq):
            raise Departed
        self.progress.complete = self.progress.committed = seq
        raise mismatch(operation, self._turns.fingerprints(seq), texts_of_all(self.comm, operation.request))

    def _check_counts(self, operation: Operation, seq: int) -> None:
        """What one sends must be what the other expects. All see the table of all, and raise the same."""
        wrong = self._turns.wrong_counts(seq, self.comm, operation.request, operation.alive(operation.view))
        if wrong is not None:
            self.progress.complete = self.progress.committed = seq
            self._reports.failed, self._reports.late = seq, False
            raise unfit_counts(operation, wrong)

    # -- failures -------------------------------------------------------------------------------------------------------

    def _settle(
        self, operation: Operation, seq: int, deadline: float, trouble: Exception
    ) -> Callable[[], Array | None] | None:
        """What makes the result if the operation has succeeded after all; None when it is to be run again. Raises its
        error."""
        self.running_until = 0.0
        turns, program, records = self._turns, self._program_now, None
        if not (isinstance(trouble, Departed) and self._parted()):
            if not self.comm.survives:
                raise self._end(operation, trouble)
            until = max(time.monotonic(), deadline) + GRACE_SECONDS
            try:
                tardy = isinstance(trouble, CommFailed) and trouble.at_once
                records = self._recover(until, expired=time.monotonic() >= deadline, tardy=tardy)
            except TimeoutError:
                raise self._end(operation, Expired()) from None
            except CommFailed as failed:
                raise self._end(operation, failed) from None
            except CollcommError:
                operation.restore()
                raise
        if seq > self.progress.committed:
            operation.restore()
            return None
        try:
            self._raise_if_failed(operation, seq)
        except CollcommError:
            operation.restore()
            raise
        if records is None:
            return lambda: self._finished(operation, operation.result)
        return lambda: self._from_records(operation, seq, turns, program, records)

    def _parted(self) -> bool:
        try:
            self._part()
        except CommFailed:
            return False
        return True

    def _raise_if_failed(self, operation: Operation, seq: int) -> None:
        fate = self.progress.resolve(seq, -1, lambda: None)
        if isinstance(fate, Failure):
            operation.view = fate.view
            kind = _ERRORS[fate.verdict.kind]
            raise kind(f"{operation.request.call.text}: {fate.verdict.text}; inputs are intact")

    def _from_records(
        self, operation: Operation, seq: int, turns: Turns, program: Program | None, records: Any
    ) -> Array | None:
        """The operation has succeeded elsewhere; ``turns`` and ``program`` are those of its view."""
        assert program is not None
        if not turns.load(seq, records, program.fingerprint):
            raise mismatch(operation, turns.fingerprints(seq), ["something else"] * operation.view.size)
        assert isinstance(program, Packed)
        return program.conclude(seq & 1, operation)

    def _recover(self, until: float, expired: bool = False, leaving: bool = False, tardy: bool = False) -> Any:
        """With all survivors: a communicator of them, one decision, the next view. Returns the records of an operation that
        has succeeded, where somebody lacked them. Raises TimeoutError."""
        progress, reports = self.progress, self._reports
        mine = reports.make(self.session.member, progress, expired, leaving, tardy)
        recovery = Recovery(self.comm, mine, self.session.raise_on_loss, reports.kept, self._turns)
        fresh, decision = recovery.run(until)
        if progress.failure is not None:
            raise progress.failure
        if recovery.records is not None:
            reports.kept = (decision.decided, recovery.records)
        if fresh is None:
            self._left = True
            return None
        verdict = None
        names = {member.id: member.name for member in progress.view.members}
        if decision.consumed > decision.decided:
            if decision.late:
                slow = ", ".join(names[member] for member in decision.missing)
                verdict = Verdict("timeout", "not finished in time" + (f": {slow} had not called it" if slow else ""))
            else:
                gone = "; ".join(f"{name} died" for member, name in names.items() if member not in recovery.members)
                verdict = Verdict("lost", gone or "a member died")
            reports.failed, reports.late = max(reports.failed, decision.consumed), decision.late
        decided, consumed = max(decision.decided, progress.committed), max(decision.consumed, progress.committed)
        progress.complete = max(progress.complete, decided)
        bound_the_end()
        self._adopt(fresh, recovery.members, decision.epoch, Outcome(decided, consumed, verdict))
        return recovery.records

    def help(self) -> None:
        """No operation is under way here, but another rank has found a failure: take part in settling it."""
        if self.queue.begin(lambda: 0) is None:
            return  # an operation has begun, and will find out
        try:
            if self.progress.failure is None and not self._left and self.comm.is_revoked():
                self._recover(time.monotonic() + GRACE_SECONDS)
        except (TimeoutError, CommFailed, CollcommError):
            pass  # so will the next operation
        finally:
            self.queue.end()

    def _part(self) -> None:
        """Some leave, and those who stay make a communicator of their own. Raises CommFailed."""
        staying = [rank for rank in range(self.comm.size) if rank not in self._turns.leavers(self.progress.entered)]
        fresh = self.comm.subset(staying, self.progress.entered)
        view, committed = self.progress.view, self.progress.committed
        outcome = Outcome(committed, committed)
        if self.session.raise_on_loss:
            gone = "; ".join(f"{m.name} has left" for rank, m in enumerate(view.members) if rank not in staying)
            outcome = Outcome(committed, committed + 1, Verdict("lost", gone))
        self._adopt(fresh, [view.ids[rank] for rank in staying], view.epoch + 1, outcome)

    def _adopt(self, comm: Comm, ids: Sequence[int], epoch: int, outcome: Outcome) -> None:
        members = {member.id: member for member in self.progress.view.members}
        view = View(epoch, tuple(members[member] for member in ids))
        self._turns.abandon()
        self.comm, self._rank = comm, comm.rank
        self._turns = Turns(comm)
        self._programs.clear()
        self.progress.adopt(view, outcome)
        self.session.adopted(self, view)

    def _end(self, operation: Operation, trouble: Exception) -> CollcommError:
        """The failure cannot be settled: this peer can do nothing any more."""
        slow = [operation.view[rank].name for rank in self._turns.absent(operation.seq)]
        error = ending(operation.request.call.text, trouble, self.comm.survives, slow)
        operation.restore()
        if self.comm.survives:
            bound_the_end()
        self.session.fail(error)
        return error

    # -- leaving --------------------------------------------------------------------------------------------------------

    def leave(self, deadline: float) -> None:
        """In place of an operation: say that this peer goes. Ends when all others have heard it, or at the deadline."""
        self._deadline = deadline
        while not self._left and time.monotonic() < deadline and self.progress.failure is None:
            seq = self.progress.entered = self.progress.committed + 1
            self.progress.call = None
            try:
                self._turns.exchange(seq, LEAVING, self._look)
                self._left = True
            except (Expired, TimeoutError):
                return
            except CommFailed:
                if not self.comm.survives:
                    return
                try:
                    self._recover(deadline, leaving=True)
                except TimeoutError:
                    return
        self._left = True

    def say_leaving(self) -> None:
        """Tell the others without waiting; MPI delivers it when they come."""
        if self.queue.idle and not self._left and self.progress.entered == self.progress.committed:
            self._left = True
            try:
                self._turns.say(self.progress.committed + 1, LEAVING)
            except CommFailed:
                pass  # they will see that we are gone

    def _desert(self) -> None:
        """This peer stops in the middle of an operation: where ranks may die, it still helps the others to go on."""
        if self.comm.survives:
            try:
                self._recover(time.monotonic() + DESERT_SECONDS, leaving=True)
            except (TimeoutError, CommFailed, CollcommError):
                pass  # they will find out when their time is up
            self._left = True

    def release(self) -> None:
        self.progress.fail(CommunicatorClosed("this communicator was closed; split() makes a new one"))
        self.queue.close()
        self._scratch = Scratch()
        self._programs.clear()
