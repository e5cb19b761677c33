"""Operations that do not move: who has called what, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..types import Call, Verdict


@dataclass
class Dispute:
    """About operation ``seq`` of communicator ``gid``, whose members are ``members``."""

    gid: int
    seq: int
    members: tuple[int, ...]
    opened: float
    calls: dict[int, Call] = field(default_factory=dict)
    waiting_on: dict[int, tuple[int, ...]] = field(default_factory=dict)
    mismatch: int | None = None  # who saw a frame that does not fit
    expired: float | None = None  # when the first deadline passed

    def verdict(self, now: float, alive: Mapping[int, str], answer: float) -> Verdict | None:
        """What is plain by now. ``alive``: names of the living by id."""
        members = [member for member in self.members if member in alive]
        missing = [member for member in members if member not in self.calls]
        variants: dict[int, list[int]] = {}
        for member in members:
            if member in self.calls:
                variants.setdefault(self.calls[member].fingerprint, []).append(member)
        if not missing and len(variants) > 1:
            return self._differ(variants, alive)
        if not missing and self.mismatch is not None:
            text = f"{alive.get(self.mismatch, '?')} received data whose sizes do not fit its own counts"
            return Verdict("mismatch", text, (alive.get(self.mismatch, "?"),))
        if self.expired is not None and (not missing or now - self.expired > answer):
            return self._timeout(missing, variants, alive)
        return None

    def _differ(self, variants: Mapping[int, list[int]], alive: Mapping[int, str]) -> Verdict:
        """Name the minority; among equals, whoever differs from the lowest rank."""
        ranked = sorted(variants.values(), key=lambda members: (-len(members), self.members.index(members[0])))
        odd = [alive[member] for members in ranked[1:] for member in members]
        said = "; ".join(
            f"{', '.join(alive[member] for member in members)} called {self.calls[members[0]].text}"
            for members in ranked
        )
        return Verdict("mismatch", f"{', '.join(odd)} called something else: {said}", tuple(odd))

    def _timeout(self, missing: list[int], variants: Mapping[int, list[int]], alive: Mapping[int, str]) -> Verdict:
        if missing:
            names = [alive[member] for member in missing]
            return Verdict("timeout", f"not finished in time: {', '.join(names)} had not called it", tuple(names))
        if len(variants) > 1:
            return self._differ(variants, alive)
        awaited: dict[int, int] = {}
        for members in self.waiting_on.values():
            for member in members:
                awaited[member] = awaited.get(member, 0) + 1
        slow = [alive[member] for member in sorted(awaited, key=lambda m: -awaited[m]) if member in alive]
        text = f"not finished in time; waited for {', '.join(slow)}" if slow else "not finished in time"
        return Verdict("timeout", text, tuple(slow[:1]))
