"""What the members of one communicator go by: the group's traffic plan, brought to the members that are present.

A pure function of the plan, the members and their hosts, so that all members come to the same. A plan made for other members
stays of use: the order keeps those who are left, newcomers are put behind those of the same host, and a
choice that was made for about as many holds. Where there is none, closed forms over typical links choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..collectives import BY_MESSAGES, Hosts
from ..types import LinkClass, PlannedChoice, TrafficPlan
from .across import choose_across
from .choice import MAX_SEGMENTS, Choice, Links, segments
from .flows import share_links
from .order import normal

CUT = {("all_reduce", "ring"), ("all_reduce", "bidirectional"), ("broadcast", "ring"), ("broadcast", "hierarchical")}
CUT |= {("all_reduce", "hierarchical")}
FRAME_SECONDS = 0.005  # of one connection; rounded up to the next power of two
LEAST_FRAME, MOST_FRAME = 1 << 14, 1 << 18
NOTICED = 0.05  # of a piece's time on the wire: a latency that is less holds up nothing
SAME_SIZE = 0.67  # of the members that a choice was made for; with fewer it is made anew


class Strategy:
    """``ids``: of the members, by rank; ``hosts``: a number for the host of each. ``beside``: the ids of groups that may
    communicate at the same time: all members have to name the same, in the same order."""

    def __init__(
        self,
        plan: TrafficPlan | None,
        ids: Sequence[int],
        hosts: tuple[int, ...],
        beside: Sequence[Sequence[int]] = (),
    ):
        self.plan = plan
        self.hosts = hosts
        self.sites = hosts
        self.order: tuple[int, ...] = tuple(range(len(ids)))
        self._chosen: dict[tuple[str, int], Choice] = {}
        self._table: dict[str, list[PlannedChoice]] = {}
        if plan is None:
            return
        spans = len({plan.site_of.get(member, -1) for member in ids}) > 1
        self.order = _order_beside(plan, ids, beside) if beside and spans else _order(plan, ids, hosts)
        self._far = plan.within
        if spans:
            self.sites, self._far = _sites(plan, ids, hosts), plan.across
        self._hub = ids.index(plan.hub) if plan.hub in ids else 0
        if len(ids) >= SAME_SIZE * len(plan.order) and len(ids) * SAME_SIZE <= len(plan.order):
            for choice in plan.choices:
                if (choice.kind, choice.algorithm) in BY_MESSAGES:
                    self._table.setdefault(choice.kind, []).append(choice)

    def choose(self, kind: str, nbytes: int) -> Choice:
        """For ``nbytes`` of the whole vector, or of all blocks together."""
        if self.plan is None:
            return choose_across(kind, nbytes, self.hosts)
        found = self._chosen.get((kind, nbytes))
        if found is None:
            if len(self._chosen) > 1024:
                self._chosen.clear()
            found = self._chosen[kind, nbytes] = self._choose(kind, nbytes)
        return found

    def planned(self, kind: str, nbytes: int) -> PlannedChoice | None:
        """What the plan says of this size; None: nothing."""
        rows = [row for row in self._table.get(kind, ()) if row.nbytes <= nbytes]
        return max(rows, key=lambda row: row.nbytes) if rows else None

    def _choose(self, kind: str, nbytes: int) -> Choice:
        assert self.plan is not None
        row = self.planned(kind, nbytes)
        if row is not None:
            options = self.parameters(kind, row.algorithm, nbytes, row.segments)
            return Choice(row.algorithm, options, row.seconds, self.frame_bytes)
        across = Links(self._far.latency, self._far.bandwidth)  # between hosts, where all are on one site
        within = Links(self.plan.within.latency, self.plan.within.bandwidth)
        found = choose_across(kind, nbytes, self.sites, across, within)
        cuts = int(found.parameters.get("segments", 1))
        options = self.parameters(kind, found.algorithm, nbytes, cuts)
        return Choice(found.algorithm, options, found.seconds, self.frame_bytes)

    @property
    def frame_bytes(self) -> int:
        """A power of two that takes a connection of the slower kind of link some 10 ms, so that several end at about the same
        time."""
        if self.plan is None:
            return 0
        rate = min(kind.bandwidth / kind.streams for kind in (self.plan.within, self._far))
        return max(LEAST_FRAME, min(MOST_FRAME, 1 << int(rate * FRAME_SECONDS).bit_length()))

    def parameters(self, kind: str, algorithm: str, nbytes: int, cuts: int) -> dict[str, Any]:
        """What a generator of schedules is to be told. ``cuts``: segments; 0: as many as keep pieces in cache."""
        return parameters(kind, algorithm, nbytes, cuts, self.order, self.sites, self._hub, self._far)


def parameters(
    kind: str,
    algorithm: str,
    nbytes: int,
    cuts: int,
    order: tuple[int, ...],
    sites: tuple[int, ...],
    hub: int,
    far: LinkClass,
) -> dict[str, Any]:
    """As `Strategy.parameters`, for any ``order`` of ranks, ``sites`` by rank, and ``hub``. ``far``: the longest kind of
    link."""
    found: dict[str, Any] = {}
    n = len(order)
    if algorithm == "star" and kind == "all_reduce":
        if hub:
            found["order"] = (hub, *(rank for rank in range(n) if rank != hub))
    elif algorithm not in ("direct", "star", "tree") and order != tuple(range(n)):
        found["order"] = order
    if algorithm == "hierarchical":
        found["hosts"] = sites
    if (kind, algorithm) in CUT:
        layout = Hosts.of(n, sites) if algorithm == "hierarchical" else None
        pieces = 1 if kind == "broadcast" else n if layout is None else layout.count
        if layout is not None:
            pieces *= layout.shares
        found["segments"] = min(MAX_SEGMENTS, cuts) if cuts else segments(nbytes / pieces)
        if kind == "all_reduce":
            sharing = layout.shares if layout is not None else 1
            found |= _lag(nbytes / pieces / found["segments"] * sharing, far, found["segments"])
    return found


def _lag(piece: float, far: LinkClass, cuts: int) -> dict[str, int]:
    """So that something is on its way over a long link until what the next step needs has come."""
    pieces = far.latency * far.bandwidth / max(1.0, piece)
    lag = min(cuts, 2 + int(pieces)) if pieces > NOTICED else 1
    return {"lag": lag} if lag > 1 else {}


def _order(plan: TrafficPlan, ids: Sequence[int], hosts: Sequence[int]) -> tuple[int, ...]:
    """Ranks in the plan's order; who is new stands behind the last one of its host, else at the end."""
    rank_of = {member: rank for rank, member in enumerate(ids)}
    order = [rank_of[member] for member in dict.fromkeys(plan.order) if member in rank_of]
    for rank in range(len(ids)):
        if rank not in order:
            near = [place for place, other in enumerate(order) if hosts[other] == hosts[rank]]
            order.insert(near[-1] + 1 if near else len(order), rank)
    return normal(order)


def _order_beside(plan: TrafficPlan, ids: Sequence[int], beside: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Ranks in an order that crosses from site to site where the groups ``beside`` do not, as far as it can."""
    newcomers = [member for member in ids if member not in plan.order]  # each on a site of its own
    everybody = [*dict.fromkeys(plan.order), *newcomers]
    number = {member: place for place, member in enumerate(everybody)}
    sites = [plan.site_of.get(member, len(everybody) + place) for place, member in enumerate(everybody)]
    groups = [[number[member] for member in dict.fromkeys(group) if member in number] for group in (*beside, ids)]
    shared = share_links(groups, sites)
    rank_of = {member: rank for rank, member in enumerate(ids)}
    return normal(rank_of[everybody[place]] for place in shared[-1])


def _sites(plan: TrafficPlan, ids: Sequence[int], hosts: tuple[int, ...]) -> tuple[int, ...]:
    """A number for the site of each. Who is new is of its host's site, or of one of its own."""
    of_member = plan.site_of
    of_host = {hosts[rank]: of_member[member] for rank, member in enumerate(ids) if member in of_member}
    fresh = max(of_host.values(), default=0) + 1
    return tuple(
        of_member.get(member, of_host.get(hosts[rank], fresh + hosts[rank])) for rank, member in enumerate(ids)
    )
