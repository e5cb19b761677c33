"""Round-trip time as TCP estimates it (Jacobson 1988, RFC 6298), and how much silence it excuses."""

from __future__ import annotations

from .presets import Limits


class RoundTrip:
    """Smoothed round-trip time and its mean deviation, in seconds."""

    def __init__(self) -> None:
        self.smoothed = 0.0
        self.deviation = 0.0

    def sample(self, seconds: float) -> None:
        if self.smoothed == 0.0:
            self.smoothed, self.deviation = seconds, seconds / 2
            return
        self.deviation += (abs(self.smoothed - seconds) - self.deviation) / 4
        self.smoothed += (seconds - self.smoothed) / 8

    def silence_limit(self, limits: Limits) -> float:
        """Silence that proves death: eight round trips at their worst, within the preset's bounds."""
        adapted = limits.pulse + 8 * (self.smoothed + 4 * self.deviation)
        return min(max(adapted, limits.silence_floor), limits.silence_ceiling)
