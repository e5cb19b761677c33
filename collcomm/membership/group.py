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

Invariants, asserted below: an epoch is announced once, and each is higher than the last; nobody is in a view who has
not asked to be; who was declared dead gets no later view; a round's outcome uses survivors' reports only; a view is written down
(Remember) before it is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ..types import COORDINATOR, GroupReport, Member, Outcome, Verdict, View, Way, WayKind
from .disputes import Disputes
from .effects import CoordinatorEffect, Note, Ping, Probe, Remember, Send
from .links import LinkFaults
from .messages import MAX_MEMBERS, PROFILE, Message
from .pairkeys import booth_key, pair_keys, view_secret
from .presets import LAN, Limits
from .recovery import OTHER_RUN, Reports, Resumption
from .round import Round, contradictions, decide
from .suspicion import Health
from .traffic import Traffic
from .ways import Ways

Run = tuple[str, bytes]  # incarnation and token
MAX_HISTORY = 1000
LATE_SECONDS = 0.25  # a tick that comes so much too late says that the coordinator was held up


class State(Enum):
    FORMING = "forming"
    STEADY = "steady"
    CHANGING = "changing"


@dataclass
class Peer:
    """Somebody who has joined; a member once it is in the view."""

    key: bytes
    member: Member
    health: Health
    is_member: bool = False
    ready: bool = False


class GroupMachine:
    """``incarnation`` and ``token`` (eight bytes) name this run of the group. ``secret``: what the keys of its data connections
    are made from; random, and told to nobody. Without one the views carry no keys."""

    def __init__(self, name: str, incarnation: str, token: bytes, limits: Limits = LAN, secret: bytes | None = None):
        self.name = name
        self.state = State.FORMING
        self.view = View(0, ())
        self.history: deque[tuple[float, int, str, str]] = deque(maxlen=MAX_HISTORY)  # time, epoch, who, cause
        self.options: tuple[int, str] | None = None
        self._incarnation = incarnation
        self._token = token
        self._limits = limits
        self._secret = secret
        self._peers: dict[bytes, Peer] = {}
        self._ids: dict[int, bytes] = {}
        self._next_id = 1
        self._next_epoch = 1
        self._rounds = 0
        self._round: Round | None = None
        self._disputes = Disputes()
        self._announced: Message = {}  # the last view, as it was sent
        self._settled: dict[int, int] = {}  # consumed, by communicator, as of that view
        self._gone: dict[bytes, str] = {}  # why a peer that may still come back is out
        self._faults = LinkFaults()
        self._traffic = Traffic()
        self._ways = Ways()
        self.booth: tuple[int, int] | None = None  # port of the coordinator's relay, and this group's number there
        self._in_vain: dict[
            tuple[int, int], tuple[int, int]
        ] = {}  # (who, dialled whom): for links with whom, by which way
        self._pulse = 0
        self._pulse_at = 0.0
        self._ticked_at: float | None = None
        self._out: list[CoordinatorEffect] = []

    @classmethod
    def resume(
        cls, name: str, run: Run, limits: Limits, secret: bytes, now: float, resumption: Resumption, reports: Reports
    ) -> tuple[GroupMachine, list[CoordinatorEffect]]:
        """A group that goes on where the lost coordinator left it. It changes its view at once: what was begun is settled
        by that."""
        group = cls(name, *run, limits, secret)
        group._ticked_at = now
        group._resume(now, resumption, reports)
        return group, group._drain()

    # -- events -----------------------------------------------------------------------------------------------------

    def receive(self, now: float, key: bytes, message: Message) -> list[CoordinatorEffect]:
        """A valid message from the connection ``key``."""
        if self._ticked_at is None:
            self._ticked_at = now  # an idle coordinator ticks seldom
        kind = message["t"]
        peer = self._peers.get(key)
        if kind == "join":
            self._join(now, key, message)
        elif kind == "report":
            self._report(now, key, message)
        elif peer is None:
            cause = self._gone.get(key)
            if kind == "leave":
                self._send(key, {"t": "left"})
            else:
                self._send(key, {"t": "who"} if cause is None else {"t": "evicted", "cause": cause})
        else:
            was_away = peer.health.disconnected_at is not None
            peer.health.spoke(now)
            if was_away:
                self._say_again(peer)
            if kind == "here":
                self._send(key, {"t": "alive"})
            elif kind == "leave":
                self._remove(now, peer, "left", announce=True)
            elif kind == "links":  # they outlive views
                self._traffic.report(now, peer.member.id, message["rows"])
            elif message.get("epoch") == self.view.epoch and peer.is_member:
                self._member_message(now, peer, message)
        return self._drain()

    def disconnected(self, now: float, key: bytes) -> list[CoordinatorEffect]:
        """The control connection of ``key`` has closed."""
        peer = self._peers.get(key)
        if peer is not None and peer.health.disconnected_at is None:
            peer.health.disconnected_at = now
            if not self._examine(now, peer) and not self._ways.is_dialled_in_vain(peer.member):
                self._out.append(Probe(self.name, peer.member))
        return self._drain()

    def probed(self, now: float, member: int, refused: bool) -> list[CoordinatorEffect]:
        """Whether nothing listens any more at the data address of ``member``, whose control connection has closed."""
        peer = self._peers.get(self._ids.get(member, b""))
        if refused and peer is not None and peer.health.disconnected_at is not None:
            self._remove(now, peer, "died: its control connection closed and its data port is gone", announce=False)
        return self._drain()

    def echo(self, now: float, key: bytes, number: int) -> list[CoordinatorEffect]:
        """A peer's pulse came back."""
        peer = self._peers.get(key)
        if peer is not None and peer.health.echoed(number, now):
            self._blame_link(now, peer)
        return self._drain()

    def planned(self, asked_for: View, plan: Message | None) -> list[CoordinatorEffect]:
        """What the planner has made of the links of view ``asked_for``; None: nothing."""
        message = self._traffic.planned(asked_for, self.view, plan)
        if message is not None:
            self._out.append(Note(f"plan {message['plan']['revision']} of group {self.name!r}"))
            for peer in self._peers.values():
                if peer.is_member:
                    self._send(peer.key, message)
        return self._drain()

    def tick(self, now: float) -> list[CoordinatorEffect]:
        """Time passes; call every ``tick_seconds`` or so, after what has arrived has been delivered."""
        late = 0.0 if self._ticked_at is None else now - self._ticked_at - self.tick_seconds
        self._ticked_at = now
        if late > LATE_SECONDS:
            for peer in self._peers.values():
                peer.health.excuse(late)
        if now - self._pulse_at >= self._limits.pulse:
            self._pulse_at = now
            for peer in self._peers.values():
                self._ping(now, peer)
        for peer in list(self._peers.values()):
            self._examine(now, peer)
        self._judge(now)
        if self.state is State.STEADY:
            self._out.extend(self._traffic.tick(now, self.name, self.view))
        if self._round is not None and now - self._round.began > self._limits.halt:
            for peer in list(self._peers.values()):
                if self._round is not None and peer.is_member and peer.member.id not in self._round.states:
                    self._remove(now, peer, f"did not answer a halt within {self._limits.halt:g} s", announce=False)
        return self._drain()

    @property
    def tick_seconds(self) -> float:
        return min(0.05, self._limits.pulse / 2)

    def knows(self, key: bytes) -> bool:
        """Whether a connection belongs to somebody who is here, or who may come back to ask why not."""
        return key in self._peers or key in self._gone

    @property
    def empty(self) -> bool:
        return not self._peers

    @property
    def ways(self) -> list[Way]:
        """How pairs of members are linked that are not linked in the usual way."""
        return [Way.of(row) for row in self._ways.rows]

    @property
    def waiting(self) -> list[Peer]:
        return [peer for peer in self._peers.values() if not peer.is_member]

    # -- the time without a coordinator ------------------------------------------------------------------------------

    def _resume(self, now: float, resumption: Resumption, reports: Reports) -> None:
        self._next_epoch, self._next_id = resumption.next_epoch, resumption.next_id
        self.options = resumption.options
        for key in resumption.members + resumption.waiting:
            self._enter(now, key, Member(*reports[key]["member"]), is_member=key in resumption.members)
        for key in resumption.strays:
            self._gone[key] = "evicted from the group while its coordinator was away"
            self._send(key, {"t": "evicted", "cause": self._gone[key]})
        self._announced = {"t": "view", **resumption.view}
        self._traffic = Traffic(resumption.view["plan"])
        self.view = View(resumption.view["epoch"], tuple(Member(*row) for row in resumption.view["members"]))
        self._ways.resume(resumption.view["ways"])
        self._settled = {gid: consumed for gid, (_, consumed, _) in resumption.view["outcomes"].items()}
        for key in resumption.lagging:
            self._send(key, self._with_keys(reports[key]["member"][0]))
        self._out.append(Note(f"group {self.name!r} is taken over in view {self.view.epoch}"))
        causes = [f"{member.name} was not heard of when the coordinator came back" for member in resumption.lost]
        for member, cause in zip(resumption.lost, causes, strict=True):
            self.history.append((now, self.view.epoch, member.name, cause))
            self._out.append(Note(f"{member} is out of view {self.view.epoch}: {cause}"))
        self._change(now, lost="; ".join(causes) or None)

    def _report(self, now: float, key: bytes, message: Message) -> None:
        """A report when the group goes on already: of a newcomer that still waits, or of somebody who is out."""
        cause = self._gone.get(key)
        if key in self._peers:
            pass
        elif message["view"] is None and cause is None:  # as if it joined now
            fields = dict(zip(PROFILE, message["member"][1:], strict=True))
            self._join(now, key, {**message, **fields})
        elif message["incarnation"] != self._incarnation:
            self._send(key, {"t": "evicted", "cause": OTHER_RUN})
        else:
            gone_on = f"not in view {self.view.epoch}: the group went on without it"
            self._send(key, {"t": "evicted", "cause": cause or gone_on})

    # -- joining ----------------------------------------------------------------------------------------------------

    def _join(self, now: float, key: bytes, message: Message) -> None:
        if key in self._peers:  # said again because our answer was slow or lost
            self._peers[key].health.spoke(now)
            self._welcome(self._peers[key])
            return
        for peer in list(self._peers.values()):
            if peer.member.name == message["name"] and peer.health.disconnected_at is not None:
                self._remove(now, peer, "was restarted", announce=False)
        refusal = self._refusal(message)
        if refusal is not None:
            self._send(key, {"t": "rejected", "text": refusal})
            return
        self.options = (message["min_size"], message["on_failure"])
        member = Member(self._next_id, *(message[field] for field in PROFILE))
        self._next_id += 1
        self._gone.pop(key, None)
        self._welcome(self._enter(now, key, member, is_member=False))
        if self.state is State.FORMING:
            self._form()
        else:
            self._tell_pending()

    def _enter(self, now: float, key: bytes, member: Member, is_member: bool) -> Peer:
        peer = self._peers[key] = Peer(key, member, Health(now), is_member)
        self._ids[member.id] = key
        self._ping(now, peer)
        return peer

    def _refusal(self, message: Message) -> str | None:
        for peer in self._peers.values():
            if peer.member.name == message["name"]:
                return (
                    f"a peer called {message['name']!r} is in group {self.name!r} already ({peer.member}); "
                    f"choose another name=, or wait until the old one has left"
                )
        if len(self._peers) >= MAX_MEMBERS:
            return f"group {self.name!r} is full: it has {MAX_MEMBERS} peers"
        if self.options is None or self.empty:
            return None
        min_size, on_failure = self.options
        if message["min_size"] != min_size:
            return f"group {self.name!r} was begun with min_size={min_size}, you gave {message['min_size']}"
        if message["on_failure"] != on_failure:
            return f"group {self.name!r} was begun with on_failure={on_failure!r}, you gave {message['on_failure']!r}"
        return None

    def _welcome(self, peer: Peer) -> None:
        self._send(
            peer.key,
            {
                "t": "welcome",
                "member": peer.member.id,
                "incarnation": self._incarnation,
                "token": self._token,
            },
        )

    def _form(self) -> None:
        assert self.state is State.FORMING and self.options is not None
        if len(self.waiting) >= self.options[0]:
            self._announce({0: Outcome(0, 0)}, admitted=True, broken=[])

    def _tell_pending(self) -> None:
        count = len(self.waiting)
        for peer in self._peers.values():
            if peer.is_member:
                self._send(peer.key, {"t": "pending", "count": count})

    # -- what members say -------------------------------------------------------------------------------------------

    def _member_message(self, now: float, peer: Peer, message: Message) -> None:
        kind = message["t"]
        if kind == "ready":
            peer.ready = True
            if self.state is State.STEADY and self._all_ready():
                self._change(now)
        elif kind == "state":
            if self._round is not None and message["round"] == self._round.number:
                self._round.states[peer.member.id] = {
                    gid: GroupReport(complete, entered, tuple(members))
                    for gid, (complete, entered, members) in message["groups"].items()
                }
                self._conclude(now)
        elif kind == "accuse":
            self._accuse(now, peer, message)
        elif kind == "unreachable":
            self._unreachable(now, peer, message)
        elif kind == "call_me":
            other = self._ids.get(message["member"])
            if self.state is State.STEADY and other is not None and self._peers[other].is_member:
                self._send(other, {**message, "t": "called", "member": peer.member.id})
        elif kind == "call":
            self._disputes.hear(now, peer.member.id, message)
            self._judge(now)
        elif kind in ("stalled", "expired", "mismatch"):
            self._dispute(now, peer, message)

    def _all_ready(self) -> bool:
        members = [peer for peer in self._peers.values() if peer.is_member]
        return bool(members) and all(peer.ready for peer in members)

    def _say_again(self, peer: Peer) -> None:
        """Its connection was away: what it may have missed. What it knows already it ignores."""
        if not peer.is_member:
            return
        if self._round is None:
            self._send(peer.key, self._with_keys(peer.member.id))
            for way in self._ways.of(peer.member.id):
                self._send(peer.key, self._told(way))
            self._send(peer.key, {"t": "pending", "count": len(self.waiting)})
            if self._traffic.told is not None:
                self._send(peer.key, self._traffic.told)
        elif peer.member.id not in self._round.states:
            self._send(peer.key, self._with_keys(peer.member.id))
            self._send(peer.key, self._halt())

    # -- death ------------------------------------------------------------------------------------------------------

    def _ping(self, now: float, peer: Peer) -> None:
        self._pulse += 1
        peer.health.pinged(self._pulse, now)
        self._out.append(Ping(peer.key, self._pulse))

    def _accuse(self, now: float, accuser: Peer, message: Message) -> None:
        accused = self._peers.get(self._ids.get(message["member"], b""))
        if accused is None or accused is accuser or not accused.is_member:
            return
        self._complain(now, accuser, accused, message["text"] or message["evidence"])

    def _complain(self, now: float, accuser: Peer, accused: Peer, text: str) -> None:
        what = f"{accuser.member.name} reports: {text}"
        accused.health.accusers.setdefault(accuser.member.id, what)
        if not self._examine(now, accused):
            self._ping(now, accused)
            if accused.health.asked is None:
                accused.health.asked = self._pulse

    def _examine(self, now: float, peer: Peer) -> bool:
        cause = peer.health.cause_of_death(now, self._limits)
        if cause is not None and peer.key in self._peers:
            self._remove(now, peer, cause, announce=False)
        return cause is not None

    def _blame_link(self, now: float, accused: Peer) -> None:
        """``accused`` is alive, so it is the link to its accusers that is broken."""
        accusers = sorted(accused.health.accusers)
        accused.health.acquit()
        for accuser in accusers:
            if accuser not in self._ids or accused.key not in self._peers:
                continue
            report = self._in_vain.pop((accuser, accused.member.id), None)
            if report is None:
                self._broke(now, (accuser, accused.member.id))
            elif self.state is State.STEADY:
                self._reroute(now, accuser, accused.member.id, *report)

    def _broke(self, now: float, ends: tuple[int, int]) -> None:
        """The link between two live members."""
        pair = (min(ends), max(ends))
        worse = self._faults.broke(now, pair)
        if worse is None:
            self._change(now, broken=pair)
        else:
            other = self._peers[self._ids[sum(pair) - worse]].member.name
            self._remove(now, self._peers[self._ids[worse]], f"its link to {other} keeps breaking", announce=False)

    # -- ways --------------------------------------------------------------------------------------------------------

    def _unreachable(self, now: float, peer: Peer, message: Message) -> None:
        """As an accusation: whoever was dialled may be dead. Who turns out to live only cannot be dialled."""
        other, number = message["member"], message["number"]
        if self.state is not State.STEADY or other == peer.member.id or self.view.rank_of(other) is None:
            return
        way = self._ways.way(peer.member.id, other)
        if number != way.number:
            self._send(peer.key, self._told(way))  # it has not heard of it yet
            return
        if message["dialled"] == COORDINATOR == way.relay and way.kind is WayKind.RELAY:
            self._reroute(now, peer.member.id, COORDINATOR, other, number)
            return
        dialled = self._peers.get(self._ids.get(message["dialled"], b""))
        if dialled is None or dialled.member.id not in (other, way.relay):
            return
        self._in_vain[peer.member.id, dialled.member.id] = (other, number)
        self._complain(now, peer, dialled, message["text"])

    def _reroute(self, now: float, reporter: int, dialled: int, other: int, number: int) -> None:
        if other not in self._ids or number != self._ways.way(reporter, other).number:
            return  # another report was before it
        way = self._ways.failed(reporter, other, dialled)
        if way is None:
            self._broke(now, (reporter, other))
            return
        for member in way.pair:
            self._send(self._ids[member], self._told(way))
        self._out.append(Note(f"{self._named(reporter)} and {self._named(other)} are to be linked {self._how(way)}"))

    def _how(self, way: Way) -> str:
        if way.kind is WayKind.RELAY:
            return "through the coordinator" if way.relay == COORDINATOR else f"through {self._named(way.relay)}"
        return f"by a connection from {self._named(way.maker)}"

    def _named(self, member: int) -> str:
        return self._peers[self._ids[member]].member.name

    def _told(self, way: Way) -> Message:
        return {"t": "way", "epoch": self.view.epoch, "way": way.row}

    def _remove(self, now: float, peer: Peer, cause: str, announce: bool) -> None:
        """``announce``: it asked to leave and gets an answer."""
        del self._peers[peer.key]
        del self._ids[peer.member.id]
        self.history.append((now, self.view.epoch, peer.member.name, cause))
        self._out.append(Note(f"{peer.member} is out of view {self.view.epoch}: {cause}"))
        if announce:
            self._send(peer.key, {"t": "left"})
        else:
            text = f"evicted from view {self.view.epoch}: {cause}"
            self._gone[peer.key] = text
            while len(self._gone) > MAX_HISTORY:
                del self._gone[next(iter(self._gone))]
            self._send(peer.key, {"t": "evicted", "cause": text})
        if not peer.is_member:
            if self.state is not State.FORMING:
                self._tell_pending()
            return
        self._change(now, lost=f"{peer.member.name} {cause}")

    # -- the view change ---------------------------------------------------------------------------------------------

    def _change(
        self,
        now: float,
        lost: str | None = None,
        verdict: tuple[int, int, Verdict] | None = None,
        broken: tuple[int, int] | None = None,
    ) -> None:
        """Begin a round, or add to the one under way. One that has lost a member begins anew: each halt names exactly those
        whose reports will decide, so that a recovery knows whom to ask."""
        if self._round is None or lost is not None:
            self._rounds += 1
            before = self._round or Round(0)
            self._round = Round(
                self._rounds, verdicts=before.verdicts, broken=before.broken, lost=before.lost, began=now
            )
            self.state = State.CHANGING
            halt = self._halt()
            for peer in self._peers.values():
                if peer.is_member:
                    self._send(peer.key, halt)
        if lost is not None:
            self._round.lost.append(lost)
        if verdict is not None:
            self._round.verdicts.append(verdict)
        if broken is not None:
            self._round.broken.add(broken)
        self._conclude(now)

    def _halt(self) -> Message:
        heirs = [peer.member.id for peer in self._peers.values() if peer.is_member]
        return {"t": "halt", "epoch": self.view.epoch, "round": self._rounds, "next": self._next_epoch, "heirs": heirs}

    def _conclude(self, now: float) -> None:
        round = self._round
        assert round is not None
        survivors = {peer.member.id for peer in self._peers.values() if peer.is_member}
        if not round.complete(survivors):
            return
        for liar in sorted(contradictions(round, survivors)):
            self._remove(now, self._peers[self._ids[liar]], "reported what cannot be true", announce=False)
            return  # removing it has concluded the round
        self._round = None
        if not survivors:
            self.state = State.FORMING
            self.view = View(self._next_epoch, ())
            self._next_epoch += 1
            self._settled.clear()
            self._disputes.clear()
            nothing: dict[str, Any] = {name: [] for name in ("members", "broken", "ways")}
            nobody = {"epoch": self.view.epoch, "admitted": False, "outcomes": {}, "plan": None, **nothing}
            self._write_down(nobody)  # so that nobody who was evicted and has not heard of it brings an old view back
            self.options = None if self.empty else self.options
            if not self.empty:
                self._form()
            return
        assert self.options is not None
        outcomes = decide(round, survivors, self.options[1] == "raise", self._settled)
        broken = [pair for pair in sorted(round.broken) if set(pair) <= survivors]
        self._announce(outcomes, admitted=self._all_ready(), broken=broken)

    def _announce(self, outcomes: dict[int, Outcome], admitted: bool, broken: list[tuple[int, int]]) -> None:
        members = [peer for peer in self._peers.values() if peer.is_member or admitted]
        members.sort(key=lambda peer: peer.member.id)
        new = [peer.member.name for peer in members if not peer.is_member]
        epoch = self._next_epoch
        assert epoch > self.view.epoch and self.options is not None
        self._next_epoch += 1
        gone = set(self.view.ids)
        self.view = View(epoch, tuple(peer.member for peer in members))
        self._traffic.view_changed(sorted(gone - set(self.view.ids)))
        self.state = State.STEADY
        self._disputes.clear()
        self._ways.coordinator_relays = self.booth is not None
        self._ways.adopt(self.view.members)
        self._in_vain.clear()
        message = {
            "t": "view",
            "epoch": epoch,
            "members": [member.row for member in self.view.members],
            "admitted": admitted,
            "outcomes": {gid: _as_row(outcome) for gid, outcome in outcomes.items()},
            "broken": [list(pair) for pair in broken],
            "plan": self._traffic.plan,
            "ways": self._ways.rows,
        }
        self._announced = message
        self._settled = {gid: outcome.consumed for gid, outcome in outcomes.items()}
        self._write_down(message)
        for peer in members:
            peer.is_member, peer.ready = True, False
            self._send(peer.key, self._with_keys(peer.member.id))
        came = f"; new: {', '.join(new)}" if new else ""
        self._out.append(Note(f"view {epoch} of group {self.name!r}: {len(members)} members{came}"))
        for name in new:
            self.history.append((self._ticked_at or 0.0, epoch, name, "joined"))
        self._tell_pending()

    def _write_down(self, view: Message) -> None:
        assert self.options is not None
        min_size, on_failure = self.options
        record = {
            "incarnation": self._incarnation,
            "token": self._token,
            "min_size": min_size,
            "on_failure": on_failure,
            "view": view,
            "next_id": self._next_id,
            "next_epoch": self._next_epoch,
        }
        self._out.append(Remember(self.name, record))

    def _with_keys(self, member: int) -> Message:
        """The last view, with the keys that ``member`` shares with the others."""
        if self._secret is None:
            return {**self._announced, "keys": [], "booth": None}
        secret = view_secret(self._secret, self.view.epoch)
        booth = None if self.booth is None else [*self.booth, booth_key(self._secret, member)]
        return {**self._announced, "keys": pair_keys(secret, member, self.view.ids), "booth": booth}

    def booth_keys(self, members: Iterable[int]) -> dict[int, bytes]:
        """The keys with which those of ``members`` who are in the present view may use the coordinator's relay."""
        secret, view = self._secret, self.view
        return {m: booth_key(secret, m) for m in members if view.rank_of(m) is not None} if secret is not None else {}

    # -- disputes ----------------------------------------------------------------------------------------------------

    def _dispute(self, now: float, peer: Peer, message: Message) -> None:
        begun = self._disputes.begin(now, message) if self.state is State.STEADY else None
        if begun is not None:
            inquiry = {"t": "inquire", "epoch": self.view.epoch, "gid": begun.gid, "seq": begun.seq}
            for member in begun.members:
                if member in self._ids:
                    self._send(self._ids[member], inquiry)
        self._disputes.hear(now, peer.member.id, message)
        self._judge(now)

    def _judge(self, now: float) -> None:
        if self.state is not State.STEADY:
            return
        names = {member.id: member.name for member in self.view.members if member.id in self._ids}
        ruling = self._disputes.verdict(now, names, self._limits)
        if ruling is not None:
            gid, seq, verdict = ruling
            self._out.append(Note(f"operation {seq} of communicator {gid}: {verdict.text}"))
            self._change(now, verdict=ruling)
            return
        for pair in self._disputes.stuck_links(now, names, self._limits):
            self._change(now, broken=pair)

    def _send(self, key: bytes, message: Message) -> None:
        self._out.append(Send(key, message))

    def _drain(self) -> list[CoordinatorEffect]:
        effects, self._out = self._out, []
        return effects


def _as_row(outcome: Outcome) -> list[object]:
    verdict = outcome.verdict
    row = None if verdict is None else [verdict.kind, verdict.text[:4000], list(verdict.culprits)]
    return [outcome.decided, outcome.consumed, row]
