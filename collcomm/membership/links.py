"""Links between two live members that break again and again: make them anew, or set one of the two aside."""

from __future__ import annotations

LINK_FAULTS = 3  # so many times in LINK_SECONDS, and the link is the fault of whoever more peers complain about
LINK_SECONDS = 30.0  # each attempt to dial a path that is cut takes some seconds

Pair = tuple[int, int]


class LinkFaults:
    """When the link of each pair of members broke, by the coordinator's time."""

    def __init__(self) -> None:
        self._faults: dict[Pair, list[float]] = {}

    def broke(self, now: float, pair: Pair) -> int | None:
        """A link broke although both ends live. Returns the member to set aside, None while the link deserves another try:
        of the two the one in more broken links, of equals the later one."""
        recent = [at for at in self._faults.get(pair, ()) if now - at < LINK_SECONDS]
        self._faults[pair] = [*recent, now]
        if len(recent) + 1 < LINK_FAULTS:
            return None
        del self._faults[pair]
        counts = {member: sum(member in other for other in self._faults) for member in pair}
        return max(pair, key=lambda member: (counts[member], member))
