"""Who knocks at a group: newcomers, those who say again that they joined, and those who are out and have not heard of it."""

from __future__ import annotations

from ..types import Member
from .announcement import Run
from .chronicle import Exit
from .effects import Outbox
from .messages import MAX_MEMBERS, PROFILE, Message
from .pulse import Pulse
from .recovery import OTHER_RUN
from .roster import Peer, Roster
from .views import Views

MOST_KEPT_OUT = 1000


class Admission:
    """To the group called ``name``, in its ``run``. Whoever is let in waits for the next view that takes newcomers in."""

    def __init__(self, name: str, run: Run, roster: Roster, views: Views, pulse: Pulse, out: Outbox):
        self._name = name
        self._run = run
        self._roster = roster
        self._views = views
        self._pulse = pulse
        self._out = out
        self._kept_out: dict[str, tuple[float, str]] = {}  # by name: until when, and why

    def join(self, now: float, key: bytes, message: Message) -> None:
        known = self._roster.at(key)
        if known is not None:  # said again because our answer was slow or lost
            known.health.spoke(now)
            self._welcome(known)
            return
        for peer in self._roster:
            if peer.member.name == message["name"] and peer.health.disconnected_at is not None:
                self._views.remove(now, peer, Exit.RESTARTED, "was restarted")
        refusal = self._refusal(now, message)
        if refusal is not None:
            self._reject(now, key, message["name"], refusal)
            return
        self._roster.options = (message["min_size"], message["on_failure"])
        member = Member(self._roster.next_id, *(message[field] for field in PROFILE))
        self._roster.next_id += 1
        self._welcome(self.enter(now, key, member, is_member=False))
        self._views.came(now)

    def report(self, now: float, key: bytes, message: Message) -> None:
        """A report when the group goes on already: of a newcomer that still waits, or of somebody who is out."""
        cause = self._roster.why_out(key)
        if self._roster.at(key) is not None:
            pass
        elif message["view"] is None and cause is None:  # as if it joined now
            fields = dict(zip(PROFILE, message["member"][1:], strict=True))
            self.join(now, key, {**message, **fields})
        elif message["incarnation"] != self._run[0]:
            self._out.send(key, {"t": "evicted", "cause": OTHER_RUN})
        else:
            gone_on = f"not in view {self._views.view.epoch}: the group went on without it"
            self._out.send(key, {"t": "evicted", "cause": cause or gone_on})

    def turn_away(self, key: bytes, message: Message) -> None:
        """Whoever speaks by that connection is not here."""
        cause = self._roster.why_out(key)
        if message["t"] == "leave":
            self._out.send(key, {"t": "left"})
        else:
            self._out.send(key, {"t": "who"} if cause is None else {"t": "evicted", "cause": cause})

    def enter(self, now: float, key: bytes, member: Member, is_member: bool) -> Peer:
        peer = self._roster.enter(now, key, member, is_member)
        self._pulse.ping(now, peer)
        return peer

    def _reject(self, now: float, key: bytes, name: str, refusal: str) -> None:
        self._out.send(key, {"t": "rejected", "text": refusal})
        chronicle = self._views.chronicle
        if not chronicle.just_said("rejected", name):  # who tries again and again
            event = chronicle.record(now, "rejected", self._views.view.epoch, refusal, 0, name)
            self._out.note(f"{name} is not taken in: {refusal}", event)

    def _welcome(self, peer: Peer) -> None:
        incarnation, token = self._run
        welcome = {"t": "welcome", "member": peer.member.id, "incarnation": incarnation, "token": token}
        self._out.send(peer.key, welcome)

    def keep_out(self, name: str, until: float, cause: str) -> None:
        """Whoever is called that is not let in before ``until``."""
        self._kept_out[name] = until, cause
        while len(self._kept_out) > MOST_KEPT_OUT:
            del self._kept_out[next(iter(self._kept_out))]

    def _refusal(self, now: float, message: Message) -> str | None:
        """Why there is no place for a newcomer."""
        name, peers = self._name, list(self._roster)
        until, cause = self._kept_out.get(message["name"], (now, ""))
        if now < until:
            return f"{message['name']} was set aside ({cause}); it may join again in {until - now:.0f} s"
        for peer in peers:
            if peer.member.name == message["name"]:
                return (
                    f"a peer called {message['name']!r} is in group {name!r} already ({peer.member}); "
                    f"choose another name=, or wait until the old one has left"
                )
        if len(peers) >= MAX_MEMBERS:
            return f"group {name!r} is full: it has {MAX_MEMBERS} peers"
        if self._roster.options is None or not peers:
            return None
        min_size, on_failure = self._roster.options
        if message["min_size"] != min_size:
            return f"group {name!r} was begun with min_size={min_size}, you gave {message['min_size']}"
        if message["on_failure"] != on_failure:
            return f"group {name!r} was begun with on_failure={on_failure!r}, you gave {message['on_failure']!r}"
        return None
