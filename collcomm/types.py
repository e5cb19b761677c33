"""Values that several rooms exchange: members, views, and what a view change decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

OUTWARD = "outward"  # among a member's offers: it can dial, and cannot be dialled from other hosts


@dataclass(frozen=True)
class Member:
    """One peer of a group. ``id`` is given by the coordinator, ascending, and never used twice. ``host_id`` is equal for
    members that share a host, ``offers`` names the transports it can be reached by, with commas. ``site`` is equal for members
    that the user says are near each other: a rack, a data centre."""

    id: int
    name: str
    host: str
    port: int
    host_id: str = ""
    offers: str = ""
    site: str = ""

    @property
    def row(self) -> list[int | str]:
        """The fields in order, as messages carry them."""
        return [self.id, self.name, self.host, self.port, self.host_id, self.offers, self.site]

    @property
    def outward(self) -> bool:
        """Whether it has said that other hosts cannot dial it."""
        return OUTWARD in self.offers.split(",")

    def __str__(self) -> str:
        return f"{self.name} ({self.host}:{self.port})"


COORDINATOR = 0  # no member has this id


@dataclass(frozen=True)
class Booth:
    """The coordinator's relay, as one member knows it: where it listens, which ``number`` the group has there, and the key
    that the member shares with it."""

    host: str
    port: int
    number: int
    key: bytes


class WayKind(IntEnum):
    """Who dials, of two members."""

    DIRECT = 0  # the later one
    REVERSED = 1  # the earlier one, since the later one cannot
    RELAY = 2  # both dial a third, which joins the two lines


@dataclass(frozen=True)
class Way:
    """How the members of ``pair`` (ascending ids) come by connections. Of two ways of one view the one with the higher
    ``number`` holds. ``relay``: the member that joins their lines, `COORDINATOR` if it is that."""

    pair: tuple[int, int]
    number: int = 0
    kind: WayKind = WayKind.DIRECT
    relay: int = 0

    @property
    def row(self) -> list[int]:
        """The fields in order, as messages carry them."""
        return [*self.pair, self.number, int(self.kind), self.relay]

    @classmethod
    def of(cls, row: Sequence[int]) -> Way:
        first, second, number, kind, relay = row
        return cls((first, second), number, WayKind(kind), relay)

    @property
    def maker(self) -> int:
        """The member whose part it is to make a connection; the other one waits for it."""
        return self.pair[0] if self.kind is WayKind.REVERSED else self.pair[1]


def first_way(one: Member, other: Member) -> Way:
    """The way of two members of which nobody has tried anything yet."""
    earlier, later = sorted((one, other), key=lambda member: member.id)
    kind = WayKind.REVERSED if earlier.outward and not later.outward else WayKind.DIRECT
    return Way((earlier.id, later.id), 0, kind)


@dataclass(frozen=True)
class LinkRow:
    """What is known of the way from member ``source`` to member ``target``: ``latency`` in seconds one way, ``bandwidth`` in
    bytes/s when ``streams`` connections are used."""

    source: int
    target: int
    latency: float
    bandwidth: float
    streams: int = 1


@dataclass(frozen=True)
class LinkClass:
    """A kind of link: ``latency`` in seconds one way, ``bandwidth`` in bytes/s of one host, over ``streams`` connections."""

    latency: float
    bandwidth: float
    streams: int = 1


@dataclass(frozen=True)
class PlannedChoice:
    """From ``nbytes`` on, ``kind`` goes by ``algorithm``, and takes ``seconds`` as far as the planner can tell. ``segments``:
    into how many parts each piece is cut, where the algorithm cuts; 0: as many as keep the parts in cache."""

    kind: str
    nbytes: int
    algorithm: str
    segments: int
    seconds: float


@dataclass(frozen=True)
class TrafficPlan:
    """How members use the links between them, as the coordinator's planner has fitted it to measurements.

    ``revision`` counts the plans of a group. ``order``: members' ids as they stand round a ring; ``sites``: a number for the
    site of each of them; ``hub``: who is best placed in the middle of a star. ``within`` and ``across``: a typical link
    inside a site, and between sites. ``choices``: by kind, ascending in size.
    """

    revision: int
    order: tuple[int, ...]
    sites: tuple[int, ...]
    hub: int
    within: LinkClass
    across: LinkClass
    choices: tuple[PlannedChoice, ...] = ()

    @cached_property
    def site_of(self) -> dict[int, int]:
        """By member."""
        return dict(zip(self.order, self.sites, strict=False))


@dataclass(frozen=True)
class View:
    """An agreed membership: ``epoch`` counts up, and a member's position is its rank. ``plan``: what its members have agreed
    on for their traffic, if anything."""

    epoch: int
    members: tuple[Member, ...]
    plan: TrafficPlan | None = field(default=None, compare=False, repr=False)

    @property
    def size(self) -> int:
        return len(self.members)

    @cached_property
    def ids(self) -> tuple[int, ...]:
        return tuple(member.id for member in self.members)

    @cached_property
    def shares_memory(self) -> bool:
        """Whether all members live on one host and would rather use each other's windows than messages."""
        host = self.members[0].host_id if self.members else ""
        return bool(host) and all(
            m.host_id == host and m.offers.removeprefix("cuda_ipc,").split(",")[0] == "shm" for m in self.members
        )

    @cached_property
    def shares_devices(self) -> bool:
        """Whether all members share memory, and would rather leave what lies on devices there."""
        return self.shares_memory and all(m.offers.startswith("cuda_ipc,") for m in self.members)

    @cached_property
    def hosts(self) -> tuple[int, ...]:
        """A number for the host of each member, equal for those that share one."""
        numbers: dict[str, int] = {}
        return tuple(numbers.setdefault(m.host_id or f"of member {m.id}", len(numbers)) for m in self.members)

    def choose(self, ids: Sequence[int]) -> tuple[Member, ...]:
        """The members with these ids, in the order of ``ids``; those who are not here are left out."""
        found = ((self.rank_of(member), member) for member in ids)
        return tuple(self.members[rank] for rank, _ in found if rank is not None)

    @cached_property
    def _ranks(self) -> dict[int, int]:
        return {member.id: rank for rank, member in enumerate(self.members)}

    def rank_of(self, member_id: int) -> int | None:
        """The rank of ``member_id`` in this view, None for a peer that is not in it."""
        return self._ranks.get(member_id)

    def __getitem__(self, rank: int) -> Member:
        return self.members[rank]


@dataclass(frozen=True)
class Verdict:
    """Why the operations that a view change ended have failed.

    ``kind`` is "lost", "mismatch", "timeout" or "link"; ``culprits`` are names of members. ``differ``: all living members have
    said what they called, and it is not the same.
    """

    kind: str
    text: str
    culprits: tuple[str, ...] = ()
    differ: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a view change decided for one communicator.

    Operations up to ``decided`` have succeeded everywhere. Those after it up to ``consumed`` have failed everywhere,
    for the reason in ``verdict``; any after that are to be run (again) in the new view. The next sequence number
    is ``consumed + 1``.
    """

    decided: int
    consumed: int
    verdict: Verdict | None = None


@dataclass(frozen=True)
class GroupReport:
    """How far a peer has got in one communicator when it is told to halt."""

    complete: int
    entered: int
    members: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class Call:
    """What a user asked of a communicator, in a form that peers compare: equal calls have equal fingerprints."""

    fingerprint: int
    text: str
