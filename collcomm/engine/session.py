"""One peer's membership of one group: joins agent (who is in the view), transport (how bytes move) and communicators.

The agent's thread calls the observer methods (`halt`, `adopt`, ...); the threads that run operations call the others.
Locks are taken in the order session, then progress.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..clock import SYSTEM, Clock
from ..errors import CollcommError, CollectiveTimeout, CommunicatorClosed
from ..membership import Agent, Welcome
from ..transports import SocketTransport
from ..transports.base import LinkBroken
from ..transports.device import Device
from ..types import Booth, Call, GroupReport, LinkRow, Outcome, TrafficPlan, View, Way
from .attempt import Attempt
from .fate import SharedFate
from .group import WHOLE_VIEW, WORLD_GID, Group
from .prober import Prober

GRACE_SECONDS = 15.0  # how long the coordinator may take to settle an operation that cannot go on
MAX_UNMADE = 1000
REPEAT_SECONDS = 1.0  # what is waited for is asked for again: a control connection may have lost the question


class Session(SharedFate[Group]):
    """Made by `join`; ``view`` is the newest view that the coordinator has announced. ``device``: of this peer, if it has one.
    ``grace``: seconds for which a coordinator may be away while an operation waits for it."""

    def __init__(
        self,
        transport: SocketTransport,
        clock: Clock = SYSTEM,
        device: Device | None = None,
        grace: float = GRACE_SECONDS,
    ):
        super().__init__()
        self.grace = grace
        self.clock = clock
        self.transport = transport
        self.device = device
        self.prober: Prober | None = None
        self.agent: Agent  # set by `enter`, before anything can happen
        self.member = -1
        self.view = View(-1, ())
        self._admitted = clock.condition(self._lock)
        self._admitted_view: View | None = None
        self._halted = False
        self._closed = False
        self._offer: TrafficPlan | None = None  # the newest plan for the present view, if one has come since that
        self._unmade: dict[int, list[tuple[View, Outcome]]] = {}  # of communicators that this peer has not made yet

    def enter(self, agent: Agent, deadline: float) -> None:
        """Join through ``agent``, and wait to be admitted. Raises JoinRejected, CoordinatorUnavailable."""
        self.agent = agent
        self.transport.ask(agent)
        agent.start()
        agent.wait_welcome(deadline)
        agent.wait_admitted(deadline)

    def world(self) -> Group:
        """The communicator of all members; it was made when the first view that has us came."""
        with self._lock:
            return self.groups[WORLD_GID]

    def make_group(self, gid: int, members: Sequence[int], epoch_view: View) -> Group:
        """A communicator of some members of ``epoch_view``, which begins with the plan of that; their order gives the ranks."""
        with self._lock:
            return self._make(gid, replace(epoch_view, members=epoch_view.choose(members)), 0)

    def release(self, group: Group) -> None:
        """A communicator made by `make_group` is used no more; its connections close."""
        group.release()
        self.transport.drop_group(group.gid)

    def _make(self, gid: int, view: View, consumed: int) -> Group:
        missed = self._unmade.pop(gid, ())  # what the others have done there meanwhile
        if missed:
            view = replace(view, epoch=min(view.epoch, missed[0][0].epoch - 1))
        group = self.groups[gid] = Group(self, gid, view, consumed)
        for later, outcome in missed:
            group.adopt(later, outcome)
        if self.view.epoch > group.progress.epoch:
            group.adopt(self.view, None)
        if self._halted:
            group.progress.halt()
        if self.failure is not None:
            group.progress.fail(self.failure)
        return group

    # -- observer of the agent ------------------------------------------------------------------------------------

    def welcomed(self, welcome: Welcome) -> None:
        self.member = welcome.member_id
        self.transport.introduce(welcome.member_id)

    def halt(self, epoch: int, round: int) -> dict[int, GroupReport]:
        with self._lock:
            self._halted = True
            if self.events is not None:
                self.events.halted()
            return {gid: group.progress.halt() for gid, group in self.groups.items()}

    def adopt(
        self,
        view: View,
        outcomes: dict[int, Outcome],
        admitted: bool,
        broken: Sequence[tuple[int, int]],
        keys: Mapping[int, bytes],
        ways: Sequence[Way],
        booth: Booth | None,
    ) -> None:
        with self._lock:
            for pair in broken:
                if self.member in pair:
                    self.transport.drop_member(sum(pair) - self.member)
            self.transport.keep_only(view.ids)
            self.transport.admit(view.epoch, keys, view.members, ways, booth)
            self.view = view
            self._offer = None
            self._halted = False
            for gid in WHOLE_VIEW:
                if gid not in self.groups:
                    self._make(gid, view, outcomes[gid].consumed if gid in outcomes else 0)
            for gid in outcomes.keys() - self.groups.keys():
                self._note(gid, view, outcomes[gid])
            for gid, group in self.groups.items():
                if group.progress.epoch < view.epoch:
                    group.adopt(view, outcomes.get(gid))
            if admitted:
                self._admitted_view = view
            if self.events is not None:
                self.events.adopted(self.member, view)
            if self.prober is not None:
                self.prober.adopt(self.member, view)
            self._admitted.notify_all()

    def _note(self, gid: int, view: View, outcome: Outcome) -> None:
        """What has failed in a communicator that this peer has not made yet has failed for it, too, once it makes it. One in
        which anything has succeeded since is none of its."""
        known = self._unmade.get(gid, [])
        if outcome.decided > (known[-1][1].consumed if known else 0):
            self._unmade.pop(gid, None)
        elif outcome.consumed > outcome.decided:
            self._unmade[gid] = [*known, (view, outcome)]
            if len(self._unmade) > MAX_UNMADE:
                del self._unmade[next(iter(self._unmade))]

    def planned(self, epoch: int, plan: TrafficPlan) -> None:
        with self._lock:
            if epoch == self.view.epoch:
                self._offer = plan

    def rerouted(self, way: Way) -> None:
        self.transport.reroute(way)

    def called(self, member: int, gid: int, purpose: int, stream: int, streams: int) -> None:
        rank = self.view.rank_of(member)
        if rank is not None:
            self.transport.called(self.view[rank], gid, purpose, stream, streams)

    def look_at(self, members: Sequence[int]) -> None:
        if self.prober is not None:
            self.prober.look_at(members)

    def dismissed(self, error: CollcommError) -> None:
        self.fail(error)

    def inquire(self, epoch: int, gid: int, seq: int) -> Call | None:
        with self._lock:
            group = self.groups.get(gid)
        return group.progress.inquire(seq) if group is not None else None

    # -- for the communicators ------------------------------------------------------------------------------------

    def offer(self, view: View) -> TrafficPlan | None:
        """The newest plan for ``view`` that this peer holds and that is not in use yet."""
        with self._lock:
            return self._offer if view.epoch == self.view.epoch else None

    def measured(self, rows: Sequence[LinkRow]) -> None:
        """Links of this peer have been measured: the coordinator plans by that, and they get the streams that were worth it."""
        needed: dict[int, int] = {}
        for row in rows:
            other = row.target if row.source == self.member else row.source
            needed[other] = max(row.streams, needed.get(other, 1))
        for other, streams in needed.items():
            self.transport.want_streams(other, streams)
        self.agent.links(self.view.epoch, rows)

    def tell_corruption(
        self, epoch: int, gid: int, seq: int, members: Sequence[int], confidence: float, text: str
    ) -> None:
        """A check of results has found whose fault a wrong one is."""
        self.agent.corrupt(epoch, gid, seq, members, confidence, text)

    def broken(self, epoch: int, error: LinkBroken) -> None:
        self.agent.accuse(error.member, epoch, error.evidence, error.text)

    def mismatch(self, group: Group, attempt: Attempt) -> None:
        call = group.progress.call
        assert call is not None
        self.agent.mismatch(attempt.epoch, group.gid, attempt.seq, call, group.progress.view.ids)

    def stalled(self, group: Group, epoch: int, seq: int, call: Call, waiting_on: Sequence[int], expired: bool) -> None:
        tell = self.agent.expired if expired else self.agent.stalled
        tell(epoch, group.gid, seq, call, group.progress.view.ids, tuple(waiting_on))

    def entered(self, group: Group, epoch: int, seq: int, call: Call) -> None:
        self.agent.entered(epoch, group.gid, seq, call)

    def wait_admission(self, view: View, deadline: float) -> View:
        """At the safe point, ready for newcomers: wait for the view that has them. ``view``: where we are."""
        with self._lock:
            asked, asked_at = -1, 0.0
            while True:
                if self.failure is not None:
                    raise self.failure
                admitted = self._admitted_view
                if admitted is not None and admitted.epoch > view.epoch:
                    return admitted
                now = self.clock.monotonic()
                if not self._halted and (self.view.epoch != asked or now - asked_at > REPEAT_SECONDS):
                    asked, asked_at = self.view.epoch, now
                    self.agent.ready(asked)
                if now > deadline:
                    raise CollectiveTimeout(
                        "step(): not all members have come to their step() in time to admit newcomers"
                    )
                self._admitted.wait(0.1)

    def abandon(self, why: str) -> None:
        """This peer stopped in the middle of an operation; the others see its connections close and go on without it."""
        self.close(CommunicatorClosed(f"{why}; this peer has left the group, join again"))

    def fail(self, error: CollcommError) -> None:
        with self._lock:
            super().fail(error)
            self._admitted.notify_all()

    def close(self, error: CollcommError | None = None) -> None:
        self.fail(error or CommunicatorClosed("this communicator was closed; join again to get a new one"))
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if self.prober is not None:
            self.prober.close()
        self.agent.close()
        self.transport.close()
        for group in self.groups.values():
            group.close()
        if self.events is not None:
            self.events.close()
        for close in self.at_close:
            close()

    def probe_links(self) -> None:
        """Measure the links of groups that span hosts, from the next view on."""
        operations = lambda: sum(group.operations for group in list(self.groups.values()))  # noqa: E731
        self.prober = Prober(self.transport, operations, self.measured)

    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received so far, with headers; what is shown to others in a window counts as sent."""
        sent, received = self.transport.traffic()
        windows = [group.window_traffic for group in self.groups.values()]
        return sent + sum(count["written"] for count in windows), received + sum(count["read"] for count in windows)
