"""What the coordinator knows of one peer's health: echoes, a dropped connection, what others say of it."""

from __future__ import annotations

from .presets import Limits
from .rtt import RoundTrip


class Health:
    """All times are the coordinator's. A peer is dead when `verdict` says why."""

    def __init__(self, now: float):
        self.round_trip = RoundTrip()
        self.heard_at = now
        self.disconnected_at: float | None = None
        self.accusers: dict[int, str] = {}  # member -> what it saw
        self.asked: int | None = None  # an echo of this pulse or a later one refutes the accusers
        self._sent: dict[int, float] = {}

    def pinged(self, number: int, now: float) -> None:
        self._sent[number] = now
        while len(self._sent) > 64:
            del self._sent[next(iter(self._sent))]

    def echoed(self, number: int, now: float) -> bool:
        """An echo came. True when it refutes an accusation."""
        sent = self._sent.pop(number, None)
        if sent is None:
            return False
        self.round_trip.sample(now - sent)
        self.heard_at = now
        return self.asked is not None and number >= self.asked

    def spoke(self, now: float) -> None:
        self.heard_at = now
        self.disconnected_at = None

    def excuse(self, seconds: float) -> None:
        """The coordinator itself was late by so much: nobody else is to blame."""
        self.heard_at += seconds
        if self.disconnected_at is not None:
            self.disconnected_at += seconds

    def acquit(self) -> None:
        self.accusers.clear()
        self.asked = None

    def cause_of_death(self, now: float, limits: Limits) -> str | None:
        """Why this peer counts as dead, or None."""
        if self.disconnected_at is not None:
            if self.accusers:
                return f"died: {next(iter(self.accusers.values()))}, and its control connection closed"
            if now - self.disconnected_at > limits.reconnect:
                return f"its control connection closed and did not come back within {limits.reconnect:g} s"
        silent = now - self.heard_at
        if silent > self.round_trip.silence_limit(limits):
            return f"silent for {silent:.1f} s"
        return None
