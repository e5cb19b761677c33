"""What a peer says to its coordinators and hears from them: `PeerMachine`, and those who wait for what it learns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..clock import SYSTEM, Clock
from ..errors import CollcommError, CoordinatorUnavailable, JoinRejected, ViewChanged
from ..transports.addresses import parse_addresses
from ..types import Booth, Call, GroupReport, LinkRow, Outcome, TrafficPlan, View, Way
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
from .messages import MAX_ROWS, Message
from .peer import PeerMachine
from .plans import link_message_row

REPEAT_SECONDS = 0.9
REPORT_SECONDS = 1.0  # between two reports of this peer's health
MAX_TEXT = 1000


class Lines(Protocol):
    """The connections to the coordinators, numbered from 0. ``turn`` and ``hear`` are called one at a time, on one thread;
    `post` is called from within them."""

    count: int
    where: str

    def start(
        self,
        turn: Callable[[], None],
        hear: Callable[[int, Message], None],
        refused: Callable[[CollcommError], None],
    ) -> None:
        """Call ``turn()`` every half second, and after `wake`; ``hear(line, message)`` for each valid message;
        ``refused(error)`` when it is plain that no coordinator will let us in."""

    def post(self, line: int, message: Mapping[str, Any]) -> None: ...

    def wake(self) -> None:
        """Call ``turn`` soon. From any thread."""

    def in_words(self) -> str:
        """What the connections have met, for an error message."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Welcome:
    """``token`` names the group's run on data connections."""

    member_id: int
    incarnation: str
    token: bytes


class Observer(Protocol):
    """Hears what the coordinator decides, on the agent's thread; each call returns quickly."""

    def welcomed(self, welcome: Welcome) -> None:
        """The coordinator has taken this peer in; it may do so again, under another number, before the first view."""

    def halt(self, epoch: int, round: int) -> dict[int, GroupReport]:
        """Freeze all communicators and report how far each has got."""

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
        """A new view. ``broken``: pairs of members whose links are to be made anew. ``keys``: by member, for those links.
        ``ways``: of this peer's links that do not come about in the usual way. ``booth``: the coordinator's relay, if any."""

    def rerouted(self, way: Way) -> None:
        """From now on this peer and another member come by connections in that way."""

    def called(self, member: int, gid: int, purpose: int, stream: int, streams: int) -> None:
        """``member`` waits for a link that this peer has a part in making: ``streams`` of it, from number ``stream`` on."""

    def planned(self, epoch: int, plan: TrafficPlan) -> None:
        """A plan to adopt at a safe point of view ``epoch``, together with the other members."""

    def look_at(self, members: Sequence[int]) -> None:
        """Links with these are to be measured now."""

    def dismissed(self, error: CollcommError) -> None:
        """This peer is out of the group."""

    def inquire(self, epoch: int, gid: int, seq: int) -> Call | None:
        """What operation ``seq`` is here; None when it has not been entered, `Agent.entered` tells later."""


class Agent:
    """All methods may be called from any thread; those that only tell something never wait.

    ``request``: the `join` message of this peer. ``report``: makes a message of how it is, about once a second, on the thread
    of the lines; None: nobody does.
    """

    def __init__(self, lines: Lines, request: Message, observer: Observer, clock: Clock = SYSTEM):
        self._lines = lines
        self._request = request
        self._observer = observer
        self._clock = clock
        self._machine = PeerMachine(request, lines.count)
        self._outbox: deque[Message] = deque()
        self._changed = clock.condition(threading.RLock())
        self._welcome: Welcome | None = None
        self._view: View | None = None
        self._error: CollcommError | None = None
        self._left = False
        self._accused: dict[tuple[int, int], float] = {}  # when last said
        self._measured: dict[tuple[int, int], LinkRow] = {}
        self._heard_at = clock.monotonic()
        self.pending = 0
        self.report: Callable[[], Message] | None = None
        self._report_at = 0.0

    def start(self) -> None:
        self._lines.start(self._turn, self._hear, self._refused)

    def close(self) -> None:
        """End the connections. Bounded, and harmless when done twice."""
        self._lines.close()

    # -- waiting ----------------------------------------------------------------------------------------------------

    def wait_welcome(self, deadline: float) -> Welcome:
        """Until the coordinator has taken us in. Raises JoinRejected, CoordinatorUnavailable."""
        with self._changed:
            while self._welcome is None:
                self._wait(
                    deadline, f"the coordinator at {self._lines.where} does not answer: {self._lines.in_words()}"
                )
            return self._welcome

    def wait_admitted(self, deadline: float) -> View:
        """Until the first view that has us. Raises JoinRejected, CoordinatorUnavailable."""
        with self._changed:
            while self._view is None:
                self._wait(
                    deadline,
                    f"joined group {self._request['group']!r} at {self._lines.where}, but was not admitted in time: "
                    f"{self._request['min_size']} peers make the first view, and members of a running group admit "
                    f"newcomers in step()",
                )
            return self._view

    def _wait(self, deadline: float, otherwise: str) -> None:
        if self._error is not None:
            raise self._error
        left = deadline - self._clock.monotonic()
        if left <= 0:
            raise CoordinatorUnavailable(otherwise)
        self._changed.wait(min(left, 0.1))

    @property
    def welcome(self) -> Welcome | None:
        """What the coordinator said when it took us in."""
        return self._welcome

    @property
    def coordinator_silent_for(self) -> float:
        """Seconds since anything came from the coordinator."""
        return self._clock.monotonic() - self._heard_at

    # -- telling ----------------------------------------------------------------------------------------------------

    def ready(self, epoch: int) -> None:
        """This peer is at a safe point of view ``epoch`` and would have newcomers."""
        self._tell({"t": "ready", "epoch": epoch})

    def accuse(self, member: int, epoch: int, evidence: str, text: str) -> None:
        """The link to ``member`` has failed. Repeated by whoever waits for a view change; said once in a while."""
        now = self._clock.monotonic()
        if now - self._accused.get((epoch, member), 0.0) > REPEAT_SECONDS:
            self._accused[epoch, member] = now
            self._tell({"t": "accuse", "epoch": epoch, "member": member, "evidence": evidence, "text": text[:MAX_TEXT]})

    def unreachable(self, member: int, epoch: int, number: int, dialled: int, text: str) -> None:
        """No connection with ``member`` came about by its way ``number``: ``dialled``, it or the relay, did not answer."""
        self._tell(
            {
                "t": "unreachable",
                "epoch": epoch,
                "member": member,
                "number": number,
                "dialled": dialled,
                "text": text[:MAX_TEXT],
            }
        )

    def call(self, member: int, epoch: int, gid: int, purpose: int, stream: int, streams: int) -> None:
        """This peer waits for a link that ``member`` has to make, or to come to the relay for."""
        wanted = {"member": member, "gid": gid, "purpose": purpose, "stream": stream, "streams": streams}
        self._tell({"t": "call_me", "epoch": epoch, **wanted})

    def stalled(
        self, epoch: int, gid: int, seq: int, call: Call, members: Sequence[int], waiting_on: Sequence[int]
    ) -> None:
        """Operation ``seq`` has not moved for a while."""
        self._tell({**_operation("stalled", epoch, gid, seq, call, members), "waiting_on": list(waiting_on)})

    def expired(
        self, epoch: int, gid: int, seq: int, call: Call, members: Sequence[int], waiting_on: Sequence[int]
    ) -> None:
        """The deadline of operation ``seq`` has passed."""
        self._tell({**_operation("expired", epoch, gid, seq, call, members), "waiting_on": list(waiting_on)})

    def mismatch(self, epoch: int, gid: int, seq: int, call: Call, members: Sequence[int]) -> None:
        """A frame of operation ``seq`` belongs to another call than ours."""
        self._tell(_operation("mismatch", epoch, gid, seq, call, members))

    def entered(self, epoch: int, gid: int, seq: int, call: Call) -> None:
        """The operation that was inquired about has been entered."""
        self._tell(_called(epoch, gid, seq, call))

    def links(self, epoch: int, rows: Sequence[LinkRow]) -> None:
        """Links of this peer have been measured. Said again in each view, since a new coordinator knows of none."""
        with self._changed:
            for row in rows:
                self._measured[row.source, row.target] = row
        self._tell(_measured(epoch, rows))

    def corrupt(self, epoch: int, gid: int, seq: int, members: Sequence[int], confidence: float, text: str) -> None:
        """A check of the results of operation ``seq`` says that ``members`` are the cause of a wrong one."""
        row = {"gid": gid, "seq": seq, "members": list(members), "confidence": round(1000 * confidence)}
        self._tell({"t": "corrupt", "epoch": epoch, **row, "text": text[:MAX_TEXT]})

    def leave(self, deadline: float) -> None:
        """Leave, and wait until the coordinator knows or ``deadline`` has passed."""
        self._tell({"t": "leave"})
        with self._changed:
            while not self._left and self._error is None and self._clock.monotonic() < deadline:
                self._changed.wait(min(0.1, max(0.0, deadline - self._clock.monotonic())))

    def _tell(self, message: Message) -> None:
        self._outbox.append(message)
        self._lines.wake()

    # -- on the thread of the lines ----------------------------------------------------------------------------------

    def _turn(self) -> None:
        now = self._clock.monotonic()
        self._carry_out(self._machine.tick(now))
        if self.report is not None and self._view is not None and now >= self._report_at:
            self._report_at = now + REPORT_SECONDS
            self._outbox.append(self.report())
        while self._outbox:
            self._carry_out(self._machine.say(self._outbox.popleft()))

    def _refused(self, error: CollcommError) -> None:
        if self._welcome is None:
            self._set(error=error)

    def _hear(self, line: int, message: Message) -> None:
        if message["t"] != "standby":
            self._heard_at = self._clock.monotonic()
        self._carry_out(self._machine.receive(line, message))

    def _carry_out(self, effects: Sequence[PeerEffect]) -> None:
        for effect in effects:
            if isinstance(effect, Say):
                self._lines.post(effect.line, effect.message)
            elif isinstance(effect, Halt):
                reports = self._observer.halt(effect.epoch, effect.round)
                groups = {gid: [r.complete, r.entered, list(r.members)] for gid, r in reports.items()}
                state = {"t": "state", "epoch": effect.epoch, "round": effect.round, "groups": groups}
                self._lines.post(effect.line, state)
            elif isinstance(effect, Adopt):
                self._accused.clear()
                outcomes, place = dict(effect.outcomes), self._booth(effect)
                self._observer.adopt(
                    effect.view, outcomes, effect.admitted, effect.broken, effect.keys, effect.ways, place
                )
                self._set(view=effect.view)
                self._say_links(effect.view)
            elif isinstance(effect, Planned):
                self._observer.planned(effect.epoch, effect.plan)
            elif isinstance(effect, LookAt):
                self._observer.look_at(effect.members)
            elif isinstance(effect, Reroute):
                self._observer.rerouted(effect.way)
            elif isinstance(effect, Wanted):
                self._observer.called(effect.member, effect.gid, effect.purpose, effect.stream, effect.streams)
            elif isinstance(effect, Inquire):
                call = self._observer.inquire(effect.epoch, effect.gid, effect.seq)
                if call is not None:
                    self._lines.post(effect.line, _called(effect.epoch, effect.gid, effect.seq, call))
            elif isinstance(effect, Pending):
                self.pending = effect.count
            elif isinstance(effect, Welcomed):
                welcome = Welcome(effect.member, effect.incarnation, effect.token)
                self._observer.welcomed(welcome)
                self._set(welcome=welcome)
            elif isinstance(effect, Rejected):
                self._set(error=JoinRejected(f"the coordinator at {self._lines.where} refused: {effect.text}"))
            elif isinstance(effect, Dismissed):
                error = ViewChanged(f"this peer was {effect.cause}; call join again")
                self._set(error=error)
                self._observer.dismissed(error)
            else:
                assert isinstance(effect, Left)
                self._set(left=True)

    def _say_links(self, view: View) -> None:
        present = set(view.ids)
        with self._changed:
            self._measured = {link: row for link, row in self._measured.items() if present.issuperset(link)}
            rows = list(self._measured.values())
        if rows:
            self._tell(_measured(view.epoch, rows))

    def _booth(self, effect: Adopt) -> Booth | None:
        """At the host by which this peer knows the coordinator that leads."""
        if effect.booth is None:
            return None
        host, _ = parse_addresses(self._lines.where)[self._machine.leader]
        return Booth(host, *effect.booth)

    def _set(
        self,
        welcome: Welcome | None = None,
        view: View | None = None,
        error: CollcommError | None = None,
        left: bool = False,
    ) -> None:
        with self._changed:
            self._welcome = welcome or self._welcome
            self._view = self._view or view
            self._error = self._error or error
            self._left = self._left or left
            self._changed.notify_all()


def _measured(epoch: int, rows: Sequence[LinkRow]) -> Message:
    return {"t": "links", "epoch": epoch, "rows": [link_message_row(row) for row in rows[-MAX_ROWS:]]}


def _operation(kind: str, epoch: int, gid: int, seq: int, call: Call, members: Sequence[int]) -> Message:
    return {**_called(epoch, gid, seq, call), "t": kind, "members": list(members)}


def _called(epoch: int, gid: int, seq: int, call: Call) -> Message:
    return {"t": "call", "epoch": epoch, "gid": gid, "seq": seq, "call": [call.fingerprint, call.text[:MAX_TEXT]]}
