"""From which snapshot a group recovers: a pure function of what its members hold.

A snapshot serves if each owner's shard, of the ring in which it was taken, is held whole by somebody who is here. The latest
that serves is taken. Members start a snapshot only when the one before is known to be whole at all of them, or to have failed at
all of them; so whoever is left holds the same one, and only an owner who died together with its buddy is missing from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import CollcommError
from ..types import View
from .holdings import Key

Ring = tuple[tuple[int, str], ...]  # ids and names of members; each one's buddy is the next, the last one's the first


def ring_of(view: View) -> Ring:
    """The ring of all members, by rank, but from host to host: who shares a host may die with it, so neighbours share one only
    where one host has more members than all others together, or they are alone."""
    seen: Counter[int] = Counter()
    places = []
    for member, host in zip(view.members, view.hosts, strict=True):
        places.append((seen[host], host, member.id, member.name))
        seen[host] += 1
    return tuple((member, name) for _, _, member, name in sorted(places))


class ShardLost(CollcommError):
    """Neither an owner nor its buddy is left: the snapshot cannot give that shard back. ``owners``: their names."""

    def __init__(self, text: str, owners: Sequence[str] = ()):
        super().__init__(text)
        self.owners = tuple(owners)


@dataclass(frozen=True)
class Report:
    """What one member, ``member`` by id, tells: ``held`` is key, step and owner's id of each copy; ``rings``, by generation,
    are those in which they were taken."""

    member: int
    generation: int = 0
    rings: dict[int, Ring] = field(default_factory=dict)
    held: tuple[tuple[Key, int, int], ...] = ()

    @property
    def row(self) -> list[Any]:
        """As a message carries it."""
        rings = [[generation, [list(place) for place in ring]] for generation, ring in self.rings.items()]
        return [self.member, self.generation, rings, [[*key, step, owner] for key, step, owner in self.held]]

    @classmethod
    def of(cls, row: Sequence[Any]) -> Report:
        member, generation, rings, held = row
        found = {int(number): tuple((int(i), str(name)) for i, name in ring) for number, ring in rings}
        copies = tuple(((int(g), int(n)), int(step), int(owner)) for g, n, step, owner in held)
        return cls(int(member), int(generation), found, copies)


@dataclass(frozen=True)
class Agreement:
    """``generation``: of the ring that begins. ``key``, ``step``: of the snapshot that serves, None where there is none.
    ``ring``: of that snapshot. ``holders``: by owner's id, those here who hold its shard, the owner first. ``lost``: ids of
    owners whose shard nobody holds."""

    generation: int
    key: Key | None = None
    step: int | None = None
    ring: Ring = ()
    holders: dict[int, tuple[int, ...]] = field(default_factory=dict)
    lost: tuple[int, ...] = ()


def agree(reports: Sequence[Report]) -> Agreement:
    """What all members conclude from all members' reports."""
    generation = max(report.generation for report in reports) + 1
    rings = {number: ring for report in reports for number, ring in report.rings.items()}
    steps = {key: step for report in reports for key, step, _ in report.held}
    candidates = [_candidate(generation, key, step, rings[key[0]], reports) for key, step in steps.items()]
    best = max(candidates, key=lambda found: (-len(found.lost), found.key or ()), default=None)
    return Agreement(generation) if best is None else best


def _candidate(generation: int, key: Key, step: int, ring: Ring, reports: Sequence[Report]) -> Agreement:
    holders: dict[int, tuple[int, ...]] = {}
    for owner, _ in ring:
        having = [report.member for report in reports if (key, step, owner) in report.held]
        if having:
            holders[owner] = tuple(sorted(having, key=lambda member: (member != owner, member)))
    lost = tuple(owner for owner, _ in ring if owner not in holders)
    return Agreement(generation, key, step, ring, holders, lost)


def buddy_of(ring: Ring, owner: int) -> tuple[int, str]:
    """Who keeps the copy of ``owner``'s shard: the next round the ring."""
    ids = [member for member, _ in ring]
    return ring[(ids.index(owner) + 1) % len(ring)]


def loss(agreement: Agreement, here: Sequence[int]) -> ShardLost:
    """The error for what nobody holds; ``here``: ids of the members that are left."""
    names = dict(agreement.ring)
    told = []
    for owner in agreement.lost:
        buddy, buddy_name = buddy_of(agreement.ring, owner)
        if buddy in here:
            told.append(f"{names[owner]} has gone before a whole copy had come to its buddy {buddy_name}")
        elif owner in here:
            told.append(f'{names[owner]} keeps no copy of its own (copy="never"), and its buddy {buddy_name} has gone')
        else:
            told.append(f"{names[owner]} has gone, and so has its buddy {buddy_name}, which held the copy")
    return ShardLost(
        f"of step {agreement.step} nobody holds the shard of {', '.join(names[owner] for owner in agreement.lost)}: "
        f"{'; '.join(told)}. Rebuild it (a stage of a pipeline from its neighbours: neighbour_mean), or load a checkpoint; "
        "recover(partial=True) gives the others theirs",
        [names[owner] for owner in agreement.lost],
    )
