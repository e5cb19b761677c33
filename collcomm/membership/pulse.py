"""The pulses that a coordinator sends to all peers of a group, and what it knows of its own lateness."""

from __future__ import annotations

from .effects import Outbox, Ping
from .presets import Limits
from .roster import Peer, Roster

LATE_SECONDS = 0.25  # a tick that comes so much too late says that the coordinator was held up


class Pulse:
    """``tick_seconds``: how often `tick` is to be called."""

    def __init__(self, roster: Roster, limits: Limits, out: Outbox):
        self.tick_seconds = min(0.05, limits.pulse / 2)
        self._roster = roster
        self._limits = limits
        self._out = out
        self._number = 0
        self._beat_at = 0.0
        self._ticked_at: float | None = None

    def wake(self, now: float) -> None:
        """Something happens; an idle coordinator ticks seldom, and is not late for that."""
        if self._ticked_at is None:
            self._ticked_at = now

    def tick(self, now: float) -> None:
        late = 0.0 if self._ticked_at is None else now - self._ticked_at - self.tick_seconds
        self._ticked_at = now
        if late > LATE_SECONDS:
            for peer in self._roster:
                peer.health.excuse(late)
        if now - self._beat_at >= self._limits.pulse:
            self._beat_at = now
            for peer in self._roster:
                self.ping(now, peer)

    def ping(self, now: float, peer: Peer) -> None:
        self._number += 1
        peer.health.pinged(self._number, now)
        self._out.put(Ping(peer.key, self._number))

    def ask(self, now: float, accused: Peer) -> None:
        """Whether it lives: an echo of this pulse, or of the one with which it was asked before, says so."""
        self.ping(now, accused)
        if accused.health.asked is None:
            accused.health.asked = self._number
