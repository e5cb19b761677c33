"""One communicator's engine: takes requests in order, runs them in the current view, settles what a failure leaves open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..collectives import generate
from ..errors import (
    CollcommError,
    CollectiveMismatch,
    CollectiveTimeout,
    CommunicatorClosed,
    CoordinatorUnavailable,
    PeerLost,
    ViewChanged,
)
from ..planner import Choice, choose_on_devices, choose_through_windows
from ..transports.base import COLLECTIVES, Link, LinkBroken
from ..transports.device import can_reduce_on_devices
from ..transports.frames import HEADER_BYTES
from ..types import Member, Outcome, TrafficPlan, Verdict, View
from .attempt import Attempt, Mismatch, Staging
from .binding import MOST_SHARED, DeviceBinding, WindowBinding
from .calls import Calls
from .choosing import Chooser, Explanation
from .cutting import FRAME_BYTES
from .exchange import Exchange, make_exchange, run_exchange
from .inline import run_commit
from .messages import run_messages
from .operation import Operation, Scratch
from .plan import INLINE_BYTES, Plan, compile_plan
from .progress import Failure, Halted, Progress
from .request import Request
from .windowplan import DEVICE_SLOT_BYTES, SLOT_BYTES, WindowPlan, compile_windows
from .windows import SharedWindows

if TYPE_CHECKING:
    from .session import Session

WORLD_GID = 0  # the communicator of all members
STATE_GID = 1  # shared state of all members; its members are the whole view, too
WHOLE_VIEW = (WORLD_GID, STATE_GID)
DATALESS_KINDS = frozenset({"barrier", "split", "sync"})  # the commit round is all they need
NOTHING = Plan("", (), {}, inline=True, itemsize=1, peers=())
MAX_PLANS = 512
REPEAT_SECONDS = 1.0
_ERRORS: dict[str, type[CollcommError]] = {
    "lost": PeerLost,
    "mismatch": CollectiveMismatch,
    "timeout": CollectiveTimeout,
    "link": PeerLost,
}


class Group(Calls):
    """Operations of one communicator, in the current view."""

    def __init__(self, session: Session, gid: int, view: View, consumed: int):
        progress = Progress(gid, view, consumed, session.clock)
        super().__init__(f"collcomm-engine-{gid}", view, progress, session.clock, session.recorder)
        self.gid = gid
        self.session = session
        self._links: list[Link | None] = [None] * view.size
        self._plans: dict[tuple[Request, bool, int], Plan | WindowPlan | Exchange] = {}
        self.choose: Chooser = self.choosing.choose  # benches compare other choices
        self.window_traffic: Counter[str] = Counter()
        self._in_host = WindowBinding(gid, session.transport, self.window_traffic)
        self._on_device: DeviceBinding | None = None
        self._shares = False  # memory, with all members
        self._rank = -1
        self._bound_view = View(-1, ())  # of _links, _plans, _rank
        self._scratch = {False: Scratch()}  # by whether it is on a device
        staging = Staging(HEADER_BYTES + INLINE_BYTES)
        self._events = session.events
        self._only_attempt = Attempt(
            self.progress,
            self._link,
            self._open_links,
            self._stalled,
            staging,
            session.clock,
            session.transport.poller,
            self.marks,
            session.recorder,
        )

    # -- called by the session, on the agent's thread -----------------------------------------------------------------

    def adopt(self, view: View, outcome: Outcome | None) -> None:
        mine = view if self.gid in WHOLE_VIEW else replace(view, members=view.choose(self.progress.view.ids))
        with self.progress.changed:
            if outcome is None:  # nobody has done anything here yet
                outcome = Outcome(self.progress.complete, self.progress.complete)
            self.progress.adopt(mine, outcome)

    def revise(self, plan: TrafficPlan, epoch: int) -> None:
        """Go by another plan from the next operation on, as all members do, unless a later view than ``epoch`` has come with its
        own. No operation is under way."""
        with self.progress.lock:
            if self.progress.epoch == epoch:
                self.view = self.progress.view = replace(self.progress.view, plan=plan)

    def explain(self, kind: str, nbytes: int) -> Explanation:
        """What the next such collective of this view would go by. Raises KeyError for an unknown kind."""
        view = self.progress.view
        if not self.shares_memory(view):
            choice = self.choose(kind, nbytes, view)
        else:
            choice = choose_through_windows(kind, view.size, nbytes)
        streams = {rank: len(link.streams) for rank, link in enumerate(self._links) if link is not None}
        return self.choosing.explain(kind, nbytes, view, choice, streams)

    @staticmethod
    def shares_memory(view: View) -> bool:
        """Whether the members go through windows."""
        return 1 < view.size <= MOST_SHARED and view.shares_memory

    def stays_on_device(self, request: Request) -> bool:
        view = self.view
        if not view.shares_devices or view.size > MOST_SHARED or not request.fits_windows:
            return False
        return not request.op or can_reduce_on_devices(request.dtype)

    def _abandon(self, why: str) -> None:
        self.session.abandon(why)

    def _carry_out(self, operation: Operation, seq: int, deadline: float) -> Any:
        self.operations += 1
        failed_at = 0.0
        while True:
            epoch = -1
            repeat: Callable[[], None] = _nothing
            try:
                attempt = self._begin(operation, seq, deadline)
                epoch = attempt.epoch
                self._attempt(operation, attempt)
                break
            except Halted:
                pass
            except Mismatch:
                repeat = partial(self.session.mismatch, self, attempt)
            except LinkBroken as broken:
                repeat = partial(self.session.broken, epoch, broken)
            except BaseException:
                try:
                    operation.restore()
                finally:
                    self.session.abandon(f"{operation.request.call.text} was interrupted")
                raise
            failed_at = failed_at or self._clock.monotonic()
            try:
                fate = self._fate(operation, seq, epoch, deadline, repeat)
            except BaseException:
                operation.restore()
                raise
            if fate is True:
                windows = self._in_host.shared
                if windows is not None:
                    windows.catch_up()
                break
            operation.restore()
            if isinstance(fate, Failure):
                operation.view = fate.view
                raise self._error(operation, fate.verdict)
            self.retries += 1
        if failed_at:
            self.seconds_lost += self._clock.monotonic() - failed_at
        if self._events is not None:
            self._events.completed()
        return self._settle(operation)

    def _begin(self, operation: Operation, seq: int, deadline: float) -> Attempt:
        asked_for = operation.request
        with self.progress.lock:
            view = self.progress.view
            wanted = self.progress.enter(seq, asked_for.call)
        if view is not self._bound_view:
            self._rebind(view)
        operation.view = view
        attempt = self._only_attempt
        attempt.begin(view.epoch, seq, asked_for.fingerprint, self._rank, view.size, deadline)
        if wanted:
            self.session.entered(self, view.epoch, seq, asked_for.call)
        return attempt

    def _rebind(self, view: View) -> None:
        """A new view, or a new plan for the same one: then links and windows stay."""
        same = view.epoch == self._bound_view.epoch
        self._bound_view = view
        self._plans.clear()
        if same:
            return
        self._links = [None] * view.size
        self._in_host.unbind()
        if self._on_device is not None:
            self._on_device.unbind()
        self._shares = self.shares_memory(view)
        self._rank = view.ids.index(self.session.member)

    def _attempt(self, operation: Operation, attempt: Attempt) -> None:
        """The data phase and the commit round. An operation that has lost its meaning in this view has no data: all
        survivors find the same, pass over it together, and raise the same error afterwards."""
        windows = self._bound(operation, attempt)
        if windows is not None:
            windows.begin(attempt)
        plan = self._plan(operation, attempt.rank)
        marks = self.marks
        marks.algorithm = plan.algorithm
        scratch = self._scratch[operation.device is not None]
        if isinstance(plan, WindowPlan):
            assert windows is not None
            operation.bind(plan.sizes, scratch, fetches=True)
            dtype, ufunc = operation.request.dtype, operation.ufunc
            originals = operation.unfetched, operation.early
            windows.run(plan, operation.buffers, dtype, ufunc, attempt, operation.undo, *originals)
        elif isinstance(plan, Exchange):
            assert windows is not None
            operation.bind(plan.sizes, scratch, fetches=True)
            run_exchange(plan, windows, operation.buffers, attempt, operation.unfetched.get("in"), operation.early)
        else:
            attempt.striped = self.session.transport.striped
            self._make_links((*plan.peers, *attempt.partners), operation.view, attempt)
            run_messages(plan, operation, scratch, attempt)
        marks.last = self._clock.monotonic()
        self.progress.finish(attempt.epoch, attempt.seq)
        if windows is not None:
            windows.commit(attempt)
        else:
            run_commit(attempt)
        self.progress.commit(attempt.epoch, attempt.seq)
        marks.commit = self._clock.monotonic()

    def _bound(self, operation: Operation, attempt: Attempt) -> SharedWindows | None:
        """The windows that the operation's members share in this view, if they do. Raises as `WindowBinding.bind`."""
        if operation.device is not None:
            if self._on_device is None:
                transport = self.session.transport
                self._on_device = DeviceBinding(self.gid, transport, self.window_traffic, operation.device)
                self._scratch[True] = Scratch(operation.device)
            return self._on_device.shared or self._on_device.bind(operation.view, attempt.rank, attempt)
        if not self._shares:
            return None
        windows = self._in_host.shared
        if windows is None:
            windows = self._in_host.bind(operation.view, attempt.rank, attempt)
            self.progress.witness = windows.freeze
        return windows

    def _settle(self, operation: Operation) -> Any:
        """The operation is committed: finish its result."""
        lost = operation.lost(operation.view)
        if lost is not None:
            operation.restore()
            raise lost
        result = operation.result
        if result is not None:
            operation.finish(result, operation.view.size)
        operation.conclude(result)
        return result

    # -- plans ----------------------------------------------------------------------------------------------------------

    def _plan(self, operation: Operation, rank: int) -> Plan | WindowPlan | Exchange:
        view = operation.view
        if operation.lost(view) is not None or operation.request.kind in DATALESS_KINDS:
            return NOTHING
        key = (operation.request, operation.in_place, operation.base.epoch)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            alive = operation.alive(view)
            if operation.device is not None:
                plan = make_device_plan(operation.request, alive, rank, operation.in_place)
            elif self._shares and not operation.request.fits_windows:
                plan = make_exchange(operation.request, alive)
            elif self._shares:
                plan = make_window_plan(operation.request, alive, rank, operation.in_place)
            else:
                choice = self.choose(operation.request.kind, operation.request.nbytes(), view)
                plan = make_plan(operation.request, choice, alive, rank, operation.in_place)
            self._plans[key] = plan
        return plan

    # -- links ----------------------------------------------------------------------------------------------------------

    def _link(self, rank: int, attempt: Attempt) -> Link:
        link = self._links[rank]
        if link is None:
            with self.progress.changed:
                attempt.check()
                member = self.progress.view[rank]
            transport = self.session.transport
            link = transport.link(self.gid, COLLECTIVES, member, lambda: attempt.idle((rank,)))
            self._links[rank] = link
        return link

    def _make_links(self, ranks: Sequence[int], view: View, attempt: Attempt) -> None:
        """Those that are this peer's to make, also those of the commit round: a peer whose links have several streams listens to
        them from the start. A send waits for its link; who had to make one, and waits for something else first,
        would close a circle that the schedule, whose sends wait for nobody, does not have."""
        for rank in ranks:
            if self._links[rank] is None and self.session.transport.makes_link(view.ids[rank]):
                self._link(rank, attempt)

    def _open_links(self) -> list[Link]:
        return [link for link in self._links if link is not None]

    # -- failures -------------------------------------------------------------------------------------------------------

    def _stalled(self, attempt: Attempt, ranks: Sequence[int]) -> None:
        with self.progress.lock:
            attempt.check()
            members = [self.progress.view[rank] for rank in ranks]
            call = self.progress.call
        assert call is not None
        self._look_for(members)
        expired = self._clock.monotonic() > attempt.deadline
        if self._clock.monotonic() > attempt.deadline + self.session.grace:
            raise self._give_up(call.text)
        waiting_on = [member.id for member in members]
        self.session.stalled(self, attempt.epoch, attempt.seq, call, waiting_on, expired)

    def _look_for(self, members: Sequence[Member]) -> None:
        """Nobody notices deaths while no coordinator is there, but by links, and these may not have been made yet. Raises
        LinkBroken."""
        if self.session.agent.coordinator_silent_for <= self.session.grace:
            return
        for member in members:
            if self.session.transport.is_gone(member):
                raise LinkBroken(member.id, "closed", f"nobody listens at {member.host}:{member.port} any more")

    def _fate(
        self, operation: Operation, seq: int, epoch: int, deadline: float, tell: Callable[[], None]
    ) -> Failure | bool:
        """What the group's next view makes of an attempt in ``epoch`` that cannot go on.

        ``tell`` says why to the coordinator, now and again, unless the view is changing already (then the trouble is
        most likely of that making).
        """
        began = self._clock.monotonic()
        told = 0.0

        def patience() -> None:
            nonlocal told
            now = self._clock.monotonic()
            silent, grace = self.session.agent.coordinator_silent_for, self.session.grace
            if (silent > grace and now - began > grace) or now > max(began, deadline) + grace:
                raise self._give_up(operation.request.call.text)
            if self.progress.halted or self.progress.epoch != epoch or now - told < REPEAT_SECONDS:
                return
            told = now
            tell()
            if now > deadline:
                self.session.stalled(self, epoch, seq, operation.request.call, [], True)

        patience()
        return self.progress.resolve(seq, epoch, patience)

    def _give_up(self, text: str) -> CoordinatorUnavailable:
        silent = self.session.agent.coordinator_silent_for
        error = CoordinatorUnavailable(
            f"{text} cannot go on and the coordinator has not settled it (last heard of {silent:.0f} s ago); this "
            f"communicator is closed, join again when the coordinator is back"
        )
        self.session.fail(error)
        return error

    def _error(self, operation: Operation, verdict: Verdict) -> CollcommError:
        kind = _ERRORS.get(verdict.kind, ViewChanged)
        return kind(f"{operation.request.call.text}: {verdict.text}; inputs are intact")

    def release(self) -> None:
        """Give up memory and thread; what is left says at view changes how far this peer has got."""
        self.progress.fail(CommunicatorClosed("this communicator was closed; split() makes a new one"))
        self.close()
        self._scratch.clear()
        self._plans.clear()
        self._links = [None] * self.view.size

    def close(self) -> None:
        """Let thread and windows go; operations fail by now."""
        self.queue.close()
        self.progress.witness = None
        self._in_host.close()
        if self._on_device is not None:
            self._on_device.close()


def _nothing() -> None:
    """There is nothing to tell."""


def make_plan(request: Request, choice: Choice, alive: Sequence[int], rank: int, in_place: bool) -> Plan:
    """The plan of ``request`` for ``rank`` of a view whose members are the ranks ``alive`` of the call's view."""
    root = alive.index(request.root) if request.root >= 0 else 0
    algorithm, parameters = choice.algorithm, choice.parameters
    if not request.fits_windows:  # only the two ends of a block know its size: nobody can pass it on
        algorithm, parameters = "direct", {key: value for key, value in parameters.items() if key == "order"}
    schedule = generate(request.kind, algorithm, len(alive), rank, root, **parameters)
    bounds = request.bounds(schedule.chunks, alive, alive[rank])
    return compile_plan(schedule, bounds, request.dtype.itemsize, in_place, choice.frame_bytes or FRAME_BYTES)


def make_window_plan(request: Request, alive: Sequence[int], rank: int, in_place: bool) -> WindowPlan:
    """As `make_plan`, for members that share memory."""
    choice = choose_through_windows(request.kind, len(alive), request.nbytes())
    return _through_windows(request, choice, alive, rank, in_place, SLOT_BYTES, True)


def make_device_plan(request: Request, alive: Sequence[int], rank: int, in_place: bool) -> WindowPlan:
    """As `make_plan`, for members that share devices. Nothing is read from windows of the dead."""
    choice = choose_on_devices(request.kind, len(alive), request.nbytes())
    return _through_windows(request, choice, alive, rank, in_place, DEVICE_SLOT_BYTES, False)


def _through_windows(
    request: Request, choice: Choice, alive: Sequence[int], rank: int, in_place: bool, slot: int, closing: bool
) -> WindowPlan:
    root = alive.index(request.root) if request.root >= 0 else 0
    schedule = generate(request.kind, choice.algorithm, len(alive), rank, root)
    private = {buffer: count for buffer, count in schedule.chunks.items() if buffer != "win"}
    bounds = request.bounds(private, alive, alive[rank])
    largest = request.largest(bounds, alive)
    return compile_windows(schedule, bounds, request.dtype.itemsize, largest, in_place, slot, closing)
