"""What a coordinator knows of the links of a group: measurements, each with its age, and who made it.

Both ends of a link may measure it. Where they disagree, the longer latency and the lower bandwidth are believed: a peer that
claims too much for itself gains nothing. Of a link that only one end has measured, that end is believed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

MAX_LINKS = 1 << 16
BANDWIDTH_CHANGE, LATENCY_CHANGE = 1.15, 1.3  # what is less than that is noise
LATENCY_NOISE = 200_000  # nanoseconds

Row = Sequence[int]  # source, target, latency in nanoseconds, bytes/s, streams


class LinkTable:
    """``changed``: whether a new plan is due."""

    def __init__(self) -> None:
        self.changed = False
        self.reported_at = 0.0
        self._doubts: dict[tuple[int, int], float] = {}
        self._links: dict[tuple[int, int], dict[int, tuple[float, int, int, int]]] = {}

    def report(self, now: float, reporter: int, rows: Iterable[Row]) -> None:
        """``reporter`` has measured; what is not about its own links is passed over."""
        for source, target, latency, bandwidth, streams in rows:
            if reporter not in (source, target) or source == target:
                continue
            if (source, target) not in self._links and len(self._links) >= MAX_LINKS:
                continue
            known = self._links.setdefault((source, target), {})
            before = known.get(reporter)
            known[reporter] = now, latency, bandwidth, streams
            self.changed |= before is None or _differs(before[1:3], (latency, bandwidth))
            self.reported_at = now

    def doubt(self, factors: Mapping[tuple[int, int], float]) -> bool:
        """See `Traffic.doubt`. Whether that is new."""
        factors = {link: factor for link, factor in factors.items() if factor > 1.0}
        news, self._doubts = factors != self._doubts, factors
        return news

    def rows(self, members: Collection[int]) -> list[list[int]]:
        """Of the links among ``members``, in order."""
        present = set(members)
        found = []
        for (source, target), reports in sorted(self._links.items()):
            if source in present and target in present:
                latency = max(report[1] for report in reports.values())
                bandwidth, streams = min((report[2], report[3]) for report in reports.values())
                bandwidth = max(1, int(bandwidth / self._doubts.get((source, target), 1.0)))
                found.append([source, target, latency, bandwidth, streams])
        return found

    def ages(self, now: float) -> dict[tuple[int, int], float]:
        """Seconds since each link was measured last."""
        return {link: now - max(report[0] for report in reports.values()) for link, reports in self._links.items()}

    def forget(self, member: int) -> None:
        """``member`` is gone, and its number is not used again."""
        for link in [link for link in self._links if member in link]:
            del self._links[link]

    def __len__(self) -> int:
        return len(self._links)


def _differs(before: tuple[int, int], after: tuple[int, int]) -> bool:
    slow, fast = sorted((before[1], after[1]))
    short, long = sorted((before[0], after[0]))
    return fast > slow * BANDWIDTH_CHANGE or long > short * LATENCY_CHANGE + LATENCY_NOISE
