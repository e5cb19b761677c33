"""Operations that do not move: who has called what, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..types import Call, Verdict
from .messages import Message
from .presets import Limits

MAX_DISPUTES = 64
RESOLVED_SECONDS = 2.0  # who waits says so every half second


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
    heard: float = 0.0  # when somebody spoke of it last

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
        return Verdict("mismatch", f"{', '.join(odd)} called something else: {said}", tuple(odd), differ=True)

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


class Disputes:
    """Those of one view, by communicator and operation."""

    def __init__(self) -> None:
        self._open: dict[tuple[int, int], Dispute] = {}
        self._mended: set[tuple[int, int]] = set()  # those whose links were made anew once

    def clear(self) -> None:
        self._open.clear()
        self._mended.clear()

    @property
    def all(self) -> list[Dispute]:
        return list(self._open.values())

    def begin(self, now: float, message: Message) -> Dispute | None:
        """Open the dispute that ``message`` calls for. None when there is one already, or there are too many."""
        place = (message["gid"], message["seq"])
        if place in self._open or len(self._open) >= MAX_DISPUTES:
            return None
        dispute = self._open[place] = Dispute(*place, tuple(message["members"]), now, heard=now)
        return dispute

    def hear(self, now: float, member: int, message: Message) -> None:
        """What ``member`` says of an operation; nothing when that is not in dispute."""
        dispute = self._open.get((message["gid"], message["seq"]))
        if dispute is None:
            return
        kind = message["t"]
        dispute.heard = now
        dispute.calls[member] = Call(*message["call"])
        if kind == "mismatch" and dispute.mismatch is None:
            dispute.mismatch = member
        if kind in ("stalled", "expired"):
            dispute.waiting_on[member] = tuple(message["waiting_on"])
        if kind == "expired" and dispute.expired is None:
            dispute.expired = now

    def verdict(self, now: float, names: Mapping[int, str], limits: Limits) -> tuple[int, int, Verdict] | None:
        """An operation of which it is plain by now what follows, which is then no longer in dispute."""
        for place, dispute in self._open.items():
            verdict = dispute.verdict(now, names, limits.answer)
            if verdict is not None:
                del self._open[place]
                return (*place, verdict)
        return None

    def stuck_links(self, now: float, names: Mapping[int, str], limits: Limits) -> list[tuple[int, int]]:
        """Pairs whose links are to be made anew: all are in the same call, all say that nothing moves, and it was not tried.
        A dispute of which nobody speaks any more has resolved itself."""
        pairs = []
        for place, dispute in list(self._open.items()):
            if now - dispute.heard > RESOLVED_SECONDS and dispute.expired is None and dispute.mismatch is None:
                del self._open[place]
                continue
            members = {member for member in dispute.members if member in names}
            late = now - dispute.opened > limits.unstick
            if late and place not in self._mended and members <= set(dispute.waiting_on):
                self._mended.add(place)
                dispute.opened = now
                for member, others in sorted(dispute.waiting_on.items()):
                    pairs += [(min(member, o), max(member, o)) for o in others if o in names and member in names]
        return pairs
