"""The views of one group, one after the other, at its coordinator: how one becomes the next, and what belongs to the present one.

`group` has the table of states and events, and the invariants: why a view changes is decided there, how is decided here. All
reasons lead to `Views.change`: members are halted (`round`), the last report of the survivors concludes the round, and the next
view is written down and announced (`announcement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from ..types import GroupReport, Member, Outcome, Verdict, View
from .announcement import Announcement
from .chronicle import Chronicle, Exit
from .disputes import Disputes
from .effects import Outbox, Remember
from .links import Links, Pair
from .messages import Message
from .recovery import Reports, Resumption
from .roster import Peer, Roster
from .round import Round, contradictions, decide
from .traffic import Traffic


class State(Enum):
    FORMING = "forming"
    STEADY = "steady"
    CHANGING = "changing"


class Views:
    """``chronicle``: what has happened. ``links``, ``disputes`` and ``traffic`` are those of the present view's members."""

    def __init__(self, name: str, roster: Roster, announcement: Announcement, out: Outbox):
        self.name = name
        self.state = State.FORMING
        self.view = View(0, ())
        self.chronicle = Chronicle(name)
        self.links = Links(roster, out)
        self.disputes = Disputes()
        self.traffic = Traffic()
        self._roster = roster
        self._announcement = announcement
        self._out = out
        self._next_epoch = 1
        self._rounds = 0
        self._round: Round | None = None

    @property
    def steady(self) -> bool:
        return self.state is State.STEADY

    def resume(self, now: float, resumption: Resumption, reports: Reports) -> None:
        """Go on where a lost coordinator left the group, with whom the roster has. The view changes at once: what was begun is
        settled by that."""
        view = resumption.view
        self._next_epoch = resumption.next_epoch
        for key in resumption.strays:
            cause = "evicted from the group while its coordinator was away"
            self._roster.shut_out(key, cause)
            self._out.send(key, {"t": "evicted", "cause": cause})
        self.view = View(view["epoch"], tuple(Member(*row) for row in view["members"]))
        self._announcement.resume(self.view, view)
        self.links.resume(self.view.epoch, view["ways"])
        self.traffic = Traffic(view["plan"])
        for key in resumption.lagging:
            self._out.send(key, self._announcement.to(reports[key]["member"][0]))
        self._out.note(f"group {self.name!r} is taken over in view {self.view.epoch}")
        causes = [f"{member.name} was not heard of when the coordinator came back" for member in resumption.lost]
        for member, cause in zip(resumption.lost, causes, strict=True):
            self._record_loss(now, member, Exit.LOST, cause)
        self.change(now, lost="; ".join(causes) or None)

    # -- who is in ---------------------------------------------------------------------------------------------------

    def came(self, now: float) -> None:
        """Somebody waits."""
        if self.state is State.FORMING:
            self._form(now)
        else:
            self._tell_pending()

    def remove(self, now: float, peer: Peer, why: Exit, cause: str) -> None:
        """``cause``: why, in words with numbers. Whoever wants to leave gets an answer."""
        self._roster.remove(peer)
        self._record_loss(now, peer.member, why, cause)
        if why is Exit.LEFT:
            self._out.send(peer.key, {"t": "left"})
        else:
            text = f"evicted from view {self.view.epoch}: {cause}"
            self._roster.shut_out(peer.key, text)
            self._out.send(peer.key, {"t": "evicted", "cause": text})
        if peer.is_member:
            self.change(now, lost=f"{peer.member.name} {cause}")
        elif self.state is not State.FORMING:
            self._tell_pending()

    def tell_again(self, peer: Peer) -> None:
        """Its connection was away: what it may have missed. What it knows already it ignores."""
        if not peer.is_member:
            return
        if self._round is None:
            self._out.send(peer.key, self._announcement.to(peer.member.id))
            self.links.tell(peer)
            self._out.send(peer.key, self._pending())
            if self.traffic.told is not None:
                self._out.send(peer.key, self.traffic.told)
        elif peer.member.id not in self._round.states:
            self._out.send(peer.key, self._announcement.to(peer.member.id))
            self._out.send(peer.key, self._halt())

    def _record_loss(self, now: float, member: Member, why: Exit, cause: str) -> None:
        event = self.chronicle.exit(now, why, self.view.epoch, cause, member.id, member.name)
        self._out.note(f"{member} is out of view {self.view.epoch}: {cause}", event)

    def _tell_pending(self) -> None:
        for peer in self._roster.members:
            self._out.send(peer.key, self._pending())

    def _pending(self) -> Message:
        return {"t": "pending", "count": len(self._roster.waiting)}

    # -- the round ---------------------------------------------------------------------------------------------------

    def change(
        self,
        now: float,
        lost: str | None = None,
        verdict: tuple[int, int, Verdict] | None = None,
        broken: Pair | None = None,
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
            for peer in self._roster.members:
                self._out.send(peer.key, halt)
        if lost is not None:
            self._round.lost.append(lost)
        if verdict is not None:
            self._round.verdicts.append(verdict)
        if broken is not None:
            self._round.broken.add(broken)
        self._conclude(now)

    def hear(self, now: float, peer: Peer, message: Message) -> None:
        """A member's report."""
        if self._round is not None and message["round"] == self._round.number:
            self._round.states[peer.member.id] = {
                gid: GroupReport(complete, entered, tuple(members))
                for gid, (complete, entered, members) in message["groups"].items()
            }
            self._conclude(now)

    def halted_for(self, now: float) -> float:
        """Seconds since the round under way began; 0.0 if there is none."""
        return 0.0 if self._round is None else now - self._round.began

    def awaits(self, peer: Peer) -> bool:
        """Whether the round lacks the report of ``peer``."""
        return self._round is not None and peer.is_member and peer.member.id not in self._round.states

    def _halt(self) -> Message:
        heirs = [peer.member.id for peer in self._roster.members]
        return {"t": "halt", "epoch": self.view.epoch, "round": self._rounds, "next": self._next_epoch, "heirs": heirs}

    def _conclude(self, now: float) -> None:
        round = self._round
        assert round is not None
        survivors = {peer.member.id for peer in self._roster.members}
        if not round.complete(survivors):
            return
        for liar in sorted(contradictions(round, survivors)):
            self.remove(now, self._roster.peer(liar), Exit.LIAR, "reported what cannot be true")
            return  # removing it has concluded the round
        self._round = None
        if not survivors:
            self._end(now)
            return
        assert self._roster.options is not None
        outcomes = decide(round, survivors, self._roster.options[1] == "raise", self._announcement.settled)
        broken = [pair for pair in sorted(round.broken) if set(pair) <= survivors]
        self._announce(now, outcomes, self._roster.all_ready, broken)

    # -- the next view -----------------------------------------------------------------------------------------------

    def _form(self, now: float) -> None:
        assert self.state is State.FORMING and self._roster.options is not None
        if len(self._roster.waiting) >= self._roster.options[0]:
            self._announce(now, {0: Outcome(0, 0)}, admitted=True, broken=[])

    def _end(self, now: float) -> None:
        """Nobody is left. That is written down, so that nobody who was evicted without hearing of it brings an old view back."""
        self.state = State.FORMING
        self.view = self._next_view([])
        self.traffic = Traffic()
        self.disputes.clear()
        self._announcement.make(self.view, admitted=False, outcomes={}, broken=[], plan=None, ways=[])
        self._write_down()
        if self._roster.empty:
            self._roster.options = None
        else:
            self._form(now)

    def _announce(self, now: float, outcomes: Mapping[int, Outcome], admitted: bool, broken: list[Pair]) -> None:
        members = [peer for peer in self._roster if peer.is_member or admitted]
        members.sort(key=lambda peer: peer.member.id)
        new = [peer.member for peer in members if not peer.is_member]
        gone = set(self.view.ids)
        self.view = self._next_view(members)
        self.state = State.STEADY
        self.disputes.clear()
        self.traffic.view_changed(sorted(gone - set(self.view.ids)))
        self.links.adopt(now, self.view, coordinator_relays=self._announcement.booth is not None)
        self._announcement.make(self.view, admitted, outcomes, broken, self.traffic.plan, self.links.rows)
        self._write_down()
        for peer in members:
            peer.is_member, peer.ready = True, False
            self._out.send(peer.key, self._announcement.to(peer.member.id))
        came = f"; new: {', '.join(member.name for member in new)}" if new else ""
        epoch, text = self.view.epoch, f"{len(members)} members{came}"
        self._out.note(f"view {epoch} of group {self.name!r}: {text}", self.chronicle.record(now, "view", epoch, text))
        for member in new:
            joined = self.chronicle.record(now, "joined", epoch, "joined", member.id, member.name)
            self._out.note(f"{member} has joined group {self.name!r} in view {epoch}", joined)
        self._tell_pending()

    def _next_view(self, members: list[Peer]) -> View:
        epoch = self._next_epoch
        assert epoch > self.view.epoch
        self._next_epoch += 1
        return View(epoch, tuple(peer.member for peer in members))

    def _write_down(self) -> None:
        assert self._roster.options is not None
        record = self._announcement.record(self._roster.options, self._roster.next_id, self._next_epoch)
        self._out.put(Remember(self.name, record))
