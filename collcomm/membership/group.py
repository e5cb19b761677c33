"""The coordinator's state machine for one group. Events in (each with the time), effects out; no sockets, no clock.

    state        event                                        to           effects
    -----------  -------------------------------------------  -----------  ------------------------------------------
    forming      join; as many wait as min_size               steady       view to all who wait
    steady       join                                         steady       welcome; pending to the members
    steady       ready from all members, somebody waits       changing     halt to all members
    steady       a member dies, leaves; a verdict; a broken   changing     halt to all members
                 link between two live ones
    steady       unreachable, and the dialled one lives       steady       way to both ends; as a broken link when none is left
    steady       call_me                                      steady       called, to the other end
    changing     state from a survivor, others missing        changing     (none)
    changing     a survivor dies                              changing     halt to the others again: the round begins anew
    changing     state from the last survivor                 steady       view with outcomes to survivors, and to those who
                                                                           wait if all survivors were ready
    changing     nobody survives                              forming      as forming

A group whose coordinator was lost begins in `changing` (`resume`; see `collcomm.membership.takeover`).

Invariants, asserted where views are made (`views`): an epoch is announced once, and each is higher than the last; nobody is
in a view who has not asked to be; who was declared dead gets no later view; a round's outcome uses survivors' reports only; a
view is written down (Remember) before it is sent.

Here events become reasons for a view to change. Who is here: `roster`; who is let in: `admission`; who lives: `pulse`,
`suspicion`; which links work: `links`, `ways`; what does not move: `disputes`; how the view changes: `views`, `round`; what is
told of it: `announcement`.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..types import COORDINATOR, LinkRow, Member, View, Way
from .admission import Admission
from .announcement import Announcement, Run
from .attendance import Doubt, Measure, Order, SetAside
from .chronicle import Chronicle, Exit
from .disputes import Dispute
from .effects import CoordinatorEffect, Heard, Outbox, Probe
from .links import DialledInVain
from .messages import Message
from .plans import link_row_of
from .presets import LAN, Limits
from .pulse import Pulse
from .recovery import Reports, Resumption
from .roster import Peer, Roster
from .views import State, Views


class GroupMachine:
    """``incarnation`` and ``token`` (eight bytes) name this run of the group. ``secret``: what the keys of its data connections
    are made from; random, and told to nobody. Without one the views carry no keys."""

    def __init__(self, name: str, incarnation: str, token: bytes, limits: Limits = LAN, secret: bytes | None = None):
        run = (incarnation, token)
        self.name = name
        self._limits = limits
        self._out = Outbox()
        self._roster = Roster()
        self._announcement = Announcement(run, secret)
        self._views = Views(name, self._roster, self._announcement, self._out)
        self._links = self._views.links
        self._disputes = self._views.disputes
        self._pulse = Pulse(self._roster, limits, self._out)
        self._admission = Admission(name, run, self._roster, self._views, self._pulse, self._out)

    @classmethod
    def resume(
        cls,
        name: str,
        run: Run,
        limits: Limits,
        secret: bytes,
        now: float,
        resumption: Resumption,
        reports: Reports,
    ) -> tuple[GroupMachine, list[CoordinatorEffect]]:
        """A group that goes on where the lost coordinator left it. It changes its view at once: what was begun is settled
        by that."""
        group = cls(name, *run, limits, secret)
        group._pulse.wake(now)
        group._roster.options, group._roster.next_id = resumption.options, resumption.next_id
        for key in resumption.members + resumption.waiting:
            group._admission.enter(now, key, Member(*reports[key]["member"]), is_member=key in resumption.members)
        group._views.resume(now, resumption, reports)
        return group, group._out.drain()

    # -- events -----------------------------------------------------------------------------------------------------

    def receive(self, now: float, key: bytes, message: Message) -> list[CoordinatorEffect]:
        """A valid message from the connection ``key``."""
        self._pulse.wake(now)
        peer = self._roster.at(key)
        if message["t"] == "join":
            self._admission.join(now, key, message)
        elif message["t"] == "report":
            self._admission.report(now, key, message)
        elif peer is None:
            self._admission.turn_away(key, message)
        else:
            was_away = peer.health.disconnected_at is not None
            peer.health.spoke(now)
            if was_away:
                self._views.tell_again(peer)
            self._hear(now, peer, message)
        return self._out.drain()

    def disconnected(self, now: float, key: bytes) -> list[CoordinatorEffect]:
        """The control connection of ``key`` has closed."""
        peer = self._roster.at(key)
        if peer is not None and peer.health.disconnected_at is None:
            peer.health.disconnected_at = now
            if not self._examine(now, peer) and not self._links.is_dialled_in_vain(peer.member):
                self._out.put(Probe(self.name, peer.member))
        return self._out.drain()

    def probed(self, now: float, member: int, refused: bool) -> list[CoordinatorEffect]:
        """Whether nothing listens any more at the data address of ``member``, whose control connection has closed."""
        peer = self._roster.of(member)
        if refused and peer is not None and peer.health.disconnected_at is not None:
            self._views.remove(now, peer, Exit.GONE, "died: its control connection closed and its data port is gone")
        return self._out.drain()

    def echo(self, now: float, key: bytes, number: int) -> list[CoordinatorEffect]:
        """A peer's pulse came back."""
        peer = self._roster.at(key)
        if peer is not None and peer.health.echoed(number, now):
            self._blame_link(now, peer)
        return self._out.drain()

    def planned(self, now: float, asked_for: View, plan: Message | None) -> list[CoordinatorEffect]:
        """What the planner has made of the links of view ``asked_for``; None: nothing."""
        message = self._views.traffic.planned(asked_for, self.view, plan)
        if message is not None:
            text = f"plan {message['plan']['revision']}"
            event = self.chronicle.record(now, "plan", self.view.epoch, text)
            self._out.note(f"{text} of group {self.name!r}", event)
            for peer in self._roster.members:
                self._out.send(peer.key, message)
        return self._out.drain()

    def ordered(self, now: float, order: Order) -> list[CoordinatorEffect]:
        """Whoever watches over the group's health wants it."""
        if isinstance(order, SetAside):
            peer = self._roster.of(order.member)
            if peer is not None and peer.is_member:
                self._admission.keep_out(peer.member.name, now + order.cooldown, order.cause)
                self._views.remove(now, peer, Exit.JUDGED, order.cause)
        elif isinstance(order, Doubt):
            self._views.traffic.doubt(order.factors)
        elif isinstance(order, Measure):
            for pair in order.pairs:
                for member in pair:
                    peer = self._roster.of(member)
                    if peer is not None and peer.is_member:
                        others = [sum(pair) - member]
                        self._out.send(peer.key, {"t": "look", "epoch": self.view.epoch, "members": others})
        else:
            return self.happened(now, order.kind, order.text, order.member, order.cause)
        return self._out.drain()

    def happened(self, now: float, kind: str, text: str, member: int = 0, cause: str = "") -> list[CoordinatorEffect]:
        """Something that others found out or did: "finding", "recovered", "action"."""
        peer = self._roster.of(member)
        name = "" if peer is None else peer.member.name
        event = self.chronicle.record(now, kind, self.view.epoch, text, member, name, cause)
        self._out.note(f"{kind} in group {self.name!r}: {text}", event)
        return self._out.drain()

    def tick(self, now: float) -> list[CoordinatorEffect]:
        """Time passes; call every ``tick_seconds`` or so, after what has arrived has been delivered."""
        self._pulse.tick(now)
        for peer in self._roster:
            self._examine(now, peer)
        self._judge(now)
        if self._views.steady:
            self._out.put(*self._views.traffic.tick(now, self.name, self.view))
        if self._views.halted_for(now) > self._limits.halt:
            silent = [
                peer for peer in self._roster if self._views.awaits(peer)
            ]  # the first removal asks the others anew
            for peer in silent:
                self._views.remove(now, peer, Exit.HALT, f"did not answer a halt within {self._limits.halt:g} s")
        return self._out.drain()

    @property
    def tick_seconds(self) -> float:
        return self._pulse.tick_seconds

    # -- what is known of it -----------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._views.state

    @property
    def view(self) -> View:
        return self._views.view

    @property
    def chronicle(self) -> Chronicle:
        """What has happened."""
        return self._views.chronicle

    @property
    def history(self) -> list[tuple[float, int, str, str]]:
        """Time, epoch, who, cause."""
        return self.chronicle.history

    @property
    def options(self) -> tuple[int, str] | None:
        """min_size and on_failure."""
        return self._roster.options

    @property
    def waiting(self) -> list[Peer]:
        return self._roster.waiting

    @property
    def empty(self) -> bool:
        return self._roster.empty

    @property
    def ways(self) -> list[Way]:
        """How pairs of members are linked that are not linked in the usual way."""
        return [Way.of(row) for row in self._links.rows]

    def measured(self, now: float) -> list[tuple[LinkRow, float]]:
        """What is known of the links between members, and the seconds since each was measured."""
        links = self._views.traffic.links
        ages = links.ages(now)
        return [(link_row_of(row), ages[row[0], row[1]]) for row in links.rows(self.view.ids)]

    @property
    def plan(self) -> int:
        """The revision of the newest plan; 0 for none."""
        return 0 if self.traffic_plan is None else int(self.traffic_plan["revision"])

    @property
    def traffic_plan(self) -> Message | None:
        """The newest plan."""
        return self._views.traffic.plan

    @property
    def stalled(self) -> list[Dispute]:
        """The operations that do not move, or are in doubt otherwise."""
        return self._disputes.all

    def peer(self, member: int) -> Peer | None:
        """Who has that number."""
        return self._roster.of(member)

    def knows(self, key: bytes) -> bool:
        """Whether a connection belongs to somebody who is here, or who may come back to ask why not."""
        return self._roster.knows(key)

    @property
    def booth(self) -> tuple[int, int] | None:
        """Port of the coordinator's relay, and this group's number there."""
        return self._announcement.booth

    @booth.setter
    def booth(self, booth: tuple[int, int] | None) -> None:
        self._announcement.booth = booth

    def booth_keys(self, members: Iterable[int]) -> dict[int, bytes]:
        """The keys with which those of ``members`` who are in the present view may use the coordinator's relay."""
        return self._announcement.booth_keys(members)

    # -- what peers say ----------------------------------------------------------------------------------------------

    def _hear(self, now: float, peer: Peer, message: Message) -> None:
        kind = message["t"]
        if kind == "here":
            self._out.send(peer.key, {"t": "alive"})
        elif kind == "leave":
            self._views.remove(now, peer, Exit.LEFT, "left")
        elif kind == "links":  # they outlive views
            self._views.traffic.report(now, peer.member.id, self.view.ids, message["rows"])
        elif message.get("epoch") == self.view.epoch and peer.is_member:
            if kind in ("health", "corrupt", "accuse", "unreachable"):
                self._out.put(Heard(self.name, peer.member.id, message))
            self._hear_member(now, peer, message)

    def _hear_member(self, now: float, peer: Peer, message: Message) -> None:
        kind = message["t"]
        if kind == "ready":
            peer.ready = True
            if self._views.steady and self._roster.all_ready:
                self._views.change(now)
        elif kind == "state":
            self._views.hear(now, peer, message)
        elif kind == "accuse":
            accused = self._roster.of(message["member"])
            if accused is not None and accused is not peer and accused.is_member:
                self._links.lost(peer.member.id, accused.member.id)
                self._complain(now, peer, accused, message["text"] or message["evidence"])
        elif kind == "unreachable":
            self._unreachable(now, peer, message)
        elif kind == "call_me":
            other = self._roster.of(message["member"])
            if self._views.steady and other is not None and other.is_member:
                self._out.send(other.key, {**message, "t": "called", "member": peer.member.id})
        elif kind == "call":
            self._disputes.hear(now, peer.member.id, message)
            self._judge(now)
        elif kind in ("stalled", "expired", "mismatch"):
            self._dispute(now, peer, message)

    # -- death ------------------------------------------------------------------------------------------------------

    def _complain(self, now: float, accuser: Peer, accused: Peer, text: str) -> None:
        what = f"{accuser.member.name} reports: {text}"
        accused.health.accusers.setdefault(accuser.member.id, what)
        if not self._examine(now, accused):
            self._pulse.ask(now, accused)

    def _examine(self, now: float, peer: Peer) -> bool:
        cause = peer.health.cause_of_death(now, self._limits)
        if cause is not None and peer in self._roster:
            why = Exit.SILENT if cause.startswith("silent") else Exit.CLOSED
            self._views.remove(now, peer, why, cause)
        return cause is not None

    # -- links that break, or do not come about -----------------------------------------------------------------------

    def _blame_link(self, now: float, accused: Peer) -> None:
        """``accused`` is alive, so it is the link to its accusers that is broken."""
        accusers = sorted(accused.health.accusers)
        accused.health.acquit()
        for accuser in accusers:
            if self._roster.of(accuser) is None or accused not in self._roster:
                continue
            report = self._links.report(accuser, accused.member.id)
            if report is None:
                self._broke(now, accuser, accused.member.id)
            elif self._views.steady:
                self._reroute(now, report)

    def _unreachable(self, now: float, peer: Peer, message: Message) -> None:
        """As an accusation: whoever was dialled may be dead. Who turns out to live only cannot be dialled."""
        other = message["member"]
        if not self._views.steady or other == peer.member.id or self.view.rank_of(other) is None:
            return
        report = self._links.unreachable(peer, message)
        if report is None:
            return
        dialled = self._roster.of(report.dialled)
        if dialled is None:
            assert report.dialled == COORDINATOR
            self._reroute(now, report)
        else:
            self._complain(now, peer, dialled, message["text"])

    def _reroute(self, now: float, report: DialledInVain) -> None:
        if not self._links.reroute(now, report):
            self._broke(now, report.reporter, report.other)

    def _broke(self, now: float, first: int, second: int) -> None:
        """The link between two live members."""
        pair = (min(first, second), max(first, second))
        worse = self._links.faults.broke(now, pair)
        if worse is None:
            self._views.change(now, broken=pair)
        else:
            other = self._roster.peer(sum(pair) - worse).member.name
            self._views.remove(now, self._roster.peer(worse), Exit.LINK, f"its link to {other} keeps breaking")

    # -- disputes ----------------------------------------------------------------------------------------------------

    def _dispute(self, now: float, peer: Peer, message: Message) -> None:
        begun = self._disputes.begin(now, message) if self._views.steady else None
        if begun is not None:
            inquiry = {"t": "inquire", "epoch": self.view.epoch, "gid": begun.gid, "seq": begun.seq}
            for member in map(self._roster.of, begun.members):
                if member is not None:
                    self._out.send(member.key, inquiry)
        self._disputes.hear(now, peer.member.id, message)
        self._judge(now)

    def _judge(self, now: float) -> None:
        if not self._views.steady:
            return
        names = {member.id: member.name for member in self.view.members if self._roster.of(member.id) is not None}
        ruling = self._disputes.verdict(now, names, self._limits)
        if ruling is not None:
            gid, seq, verdict = ruling
            self._out.note(f"operation {seq} of communicator {gid}: {verdict.text}")
            self._views.change(now, verdict=ruling)
            return
        for pair in self._disputes.stuck_links(now, names, self._limits):
            self._views.change(now, broken=pair)
