"""Several groups' traffic at once: which rank carries a group's ring across to the next site, and which path each flow takes.

C4P (arXiv 2406.04594) plans few, large, predictable flows instead of leaving them to chance: probe the paths, pin every flow to
one, re-weight from completion times. Here a group's ring stays in a site until it has seen all of its ranks there, so that it
crosses once in each direction, and the hosts and paths that carry crossings are taken in turn: each group in order of creation
takes what is least loaded, then a few passes let each choose again. Equal input gives equal plans: every rank makes its own.

Bytes are what one link of a ring carries (they are equal all round it), rates bytes/s, and a load is the bytes on a resource.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from .localsearch import links_of
from .order import Order, normal, ring_order
from .paths import check_amounts, reweight, sound, spread_paths

__all__ = [
    "Crossing",
    "Fabric",
    "Resource",
    "Sharing",
    "reweight",
    "ring_loads",
    "share_links",
    "spread_paths",
]

Resource = tuple[str, *tuple[int, ...]]
"""("send", host), ("receive", host): all traffic of a host; ("leave", host), ("enter", host): what crosses sites there;
("up", site, path), ("down", site, path): a site's uplinks, to a spine or into a provider's path; ("trunk", site, site)."""

_PASSES = 4


@dataclass(frozen=True)
class Crossing:
    """A link of a group's ring between two sites. ``path``: the number of the path that it is pinned to; -1: there is none."""

    group: int
    source: int
    target: int
    path: int


@dataclass(frozen=True)
class Sharing:
    """``orders``: the ring of each group; ``load``: bytes on each resource; ``seconds``: of the resource that takes longest."""

    orders: tuple[Order, ...]
    crossings: tuple[Crossing, ...]
    load: dict[Resource, float]
    seconds: float


@dataclass(frozen=True)
class Fabric:
    """``sites``, ``hosts``: for each rank the number of its site (or rack) and host; without ``hosts`` every rank is one.
    ``nic``: of a host in each direction; ``edge``: of a host's traffic across sites in each direction (default: its ``nic``);
    ``paths``: of each path out of a site, and into one, in each direction; ``trunks``: between two sites, where limited."""

    sites: Sequence[int]
    hosts: Sequence[int] = ()
    nic: float | Mapping[int, float] = 1.25e9
    edge: float | Mapping[int, float] | None = None
    paths: Sequence[float] = ()
    trunks: Mapping[tuple[int, int], float] | None = None

    def __post_init__(self) -> None:
        if self.hosts and len(self.hosts) != len(self.sites):
            raise ValueError(
                f"hosts are given for {len(self.hosts)} ranks and sites for {len(self.sites)}; give both for all"
            )
        where: dict[int, int] = {}
        for rank, site in enumerate(self.sites):
            if where.setdefault(self.host(rank), site) != site:
                raise ValueError(
                    f"host {self.host(rank)} is in sites {where[self.host(rank)]} and {site}; a host is in one"
                )
        if self.paths and not any(map(sound, self.paths)):
            raise ValueError("all paths are dead; give at least one that has a rate")

    def host(self, rank: int) -> int:
        return self.hosts[rank] if self.hosts else rank

    def rate(self, resource: Resource) -> float:
        """Bytes/s; 0 for what is dead."""
        kind, *where = resource
        rate: float | None
        if kind in ("up", "down"):
            rate = self.paths[where[1]]
        elif kind == "trunk":
            rate = (self.trunks or {}).get((where[0], where[1]), math.inf)
            return rate if rate == math.inf else sound(rate)
        else:
            given = self.edge if kind in ("leave", "enter") and self.edge is not None else self.nic
            rate = given.get(where[0], 0.0) if isinstance(given, Mapping) else given
        return sound(rate)

    def resources(self, source: int, target: int, path: int) -> list[Resource]:
        """What a flow from one rank to another loads."""
        sender, receiver = self.host(source), self.host(target)
        if sender == receiver:
            return []
        used: list[Resource] = [("send", sender), ("receive", receiver)]
        here, there = self.sites[source], self.sites[target]
        if here != there:
            used += [("leave", sender), ("enter", receiver)]
            if path >= 0:
                used += [("up", here, path), ("down", there, path)]
            if self.trunks is not None:
                used.append(("trunk", here, there))
        return used


class _Loads:
    def __init__(self, fabric: Fabric):
        self.fabric = fabric
        self.bytes: dict[Resource, float] = {}
        self._rates: dict[Resource, float] = {}

    def add(self, resources: Iterable[Resource], nbytes: float) -> None:
        for resource in resources:
            self.bytes[resource] = self.bytes.get(resource, 0.0) + nbytes

    def remove(self, resources: Iterable[Resource], nbytes: float) -> None:
        for resource in resources:
            left = self.bytes[resource] - nbytes
            self.bytes[resource] = left if left > 1e-9 * nbytes else 0.0  # no rest of rounding on what carries nothing

    def seconds(self, resource: Resource, more: float = 0.0) -> float:
        if resource not in self._rates:
            self._rates[resource] = self.fabric.rate(resource)
        load, rate = self.bytes.get(resource, 0.0) + more, self._rates[resource]
        return load / rate if rate else (math.inf if load > 0 else 0.0)

    def cost(self, resources: Iterable[Resource], more: float = 0.0) -> tuple[float, float]:
        """The longest of these resources, and all of them together."""
        times = [self.seconds(resource, more) for resource in resources]
        return max(times, default=0.0), sum(times)

    def total(self) -> tuple[float, float]:
        """What to minimise: the longest of all, then the squares (which fall when load moves from the longer to the shorter)."""
        times = [self.seconds(resource) for resource in sorted(self.bytes)]
        return max(times, default=0.0), sum(time * time for time in times)


def ring_loads(
    orders: Sequence[Sequence[int]],
    fabric: Fabric,
    nbytes: Sequence[float] | None = None,
    path_of: Callable[[int, int, int], int] = lambda group, source, target: -1,
) -> tuple[dict[Resource, float], float]:
    """The load model alone: bytes on each resource when every group's ring is as given, and the seconds of the longest.

    ``path_of(group, source, target)``: the number of the path of a link across sites, as a hash or a plan picks it.
    """
    loads = _Loads(fabric)
    for group, (order, amount) in enumerate(zip(orders, _amounts(orders, nbytes), strict=True)):
        for source, target in links_of(list(order)) if len(order) > 1 else []:
            crosses = fabric.sites[source] != fabric.sites[target]
            loads.add(fabric.resources(source, target, path_of(group, source, target) if crosses else -1), amount)
    return loads.bytes, loads.total()[0]


def _amounts(groups: Sequence[Sequence[int]], nbytes: Sequence[float] | None) -> list[float]:
    amounts = [1.0] * len(groups) if nbytes is None else [float(amount) for amount in nbytes]
    if len(amounts) != len(groups):
        raise ValueError(f"bytes are given for {len(amounts)} groups, but there are {len(groups)}")
    check_amounts(amounts)
    return amounts


# -- rings of several groups -------------------------------------------------------------------------------------------


def share_links(groups: Sequence[Sequence[int]], fabric: Fabric, nbytes: Sequence[float] | None = None) -> Sharing:
    """Ring orders and paths for groups that communicate at the same time.

    ``groups``: the ranks of each, in order of creation; ``nbytes``: what a link of its ring carries (default: all alike). Every
    ring visits each of its sites once, and within a site each host once.

    :raises ValueError: a group that names a rank twice or one that the fabric does not know; amounts that make no sense.
    """
    amounts = _amounts(groups, nbytes)
    for number, group in enumerate(groups):
        if len(set(group)) != len(group) or not all(0 <= rank < len(fabric.sites) for rank in group):
            raise ValueError(
                f"group {number} must name each rank once, and ranks from 0 to {len(fabric.sites) - 1} only"
            )
    loads = _Loads(fabric)
    rings = [_Ring(group, fabric) for group in groups]
    for ring, amount in zip(rings, amounts, strict=True):
        ring.choose(loads, amount)
    for _ in range(_PASSES):
        if not any([_choose_again(ring, loads, amount) for ring, amount in zip(rings, amounts, strict=True) if amount]):
            break
    orders = tuple(normal(ring.order) for ring in rings)
    paths = [{(source, target): path for source, target, path in ring.links} for ring in rings]
    crossings = [
        Crossing(number, source, target, path)
        for number, ring in enumerate(rings)
        for source, target, path in sorted(ring.links)
        if fabric.sites[source] != fabric.sites[target]
    ]
    load, seconds = ring_loads(orders, fabric, nbytes, lambda number, source, target: paths[number][source, target])
    used = {resource: amount for resource, amount in sorted(load.items()) if amount > 0}
    return Sharing(orders, tuple(crossings), used, seconds)


def _choose_again(ring: _Ring, loads: _Loads, nbytes: float) -> bool:
    """Returns whether that made the whole better; else all stays as it was."""
    before, kept, bytes_before = loads.total(), (ring.order, ring.links), dict(loads.bytes)
    ring.remove(loads, nbytes)
    ring.choose(loads, nbytes)
    if loads.total() < before:
        return True
    (ring.order, ring.links), loads.bytes = kept, bytes_before
    return False


class _Ring:
    """One group's: its ranks by site and host, and the choice made of them."""

    def __init__(self, group: Sequence[int], fabric: Fabric):
        self._fabric = fabric
        self._by_site: dict[int, dict[int, list[int]]] = {}
        for rank in sorted(group):
            self._by_site.setdefault(fabric.sites[rank], {}).setdefault(fabric.host(rank), []).append(rank)
        self.order: list[int] = []
        self.links: list[tuple[int, int, int]] = []  # (source, target, path)

    def choose(self, loads: _Loads, nbytes: float) -> None:
        """The order with the least loaded doors and paths, and its load upon the others."""
        sites = self._sites(loads, nbytes)
        self.order, self.links = [], []
        for site in sites:
            self.order += self._inside(site, loads, nbytes) if len(sites) > 1 else self._alone(site)
        for source, target in links_of(self.order) if len(self.order) > 1 else []:
            path = self._path(source, target, loads, nbytes)
            self.links.append((source, target, path))
            loads.add(self._fabric.resources(source, target, path), nbytes)

    def remove(self, loads: _Loads, nbytes: float) -> None:
        for source, target, path in self.links:
            loads.remove(self._fabric.resources(source, target, path), nbytes)

    def _sites(self, loads: _Loads, nbytes: float) -> list[int]:
        """The sites in the order in which the least loaded trunks connect them."""
        sites = sorted(self._by_site)
        if self._fabric.trunks is None or len(sites) < 3:
            return sites
        speed = [
            [1 / max(1e-9, loads.seconds(("trunk", s, t), nbytes)) if s != t else 0.0 for t in sites] for s in sites
        ]
        return [sites[place] for place in ring_order(speed)]

    def _alone(self, site: int) -> list[int]:
        return [rank for ranks in self._by_site[site].values() for rank in ranks]

    def _inside(self, site: int, loads: _Loads, nbytes: float) -> list[int]:
        """The ranks of a site, host by host, from the host with the least loaded way in to the one with the least way out."""
        hosts = self._by_site[site]

        def ways(*kinds: str) -> list[tuple[tuple[float, float], int]]:
            return sorted((loads.cost([(kind, host) for kind in kinds], nbytes), host) for host in hosts)[:2]

        (_, first), (_, last) = min(
            (
                (entry, way_out)
                for entry in ways("enter", "receive")
                for way_out in ways("leave", "send")
                if len(hosts) == 1 or entry[1] != way_out[1]
            ),
            key=lambda pair: (max(pair[0][0][0], pair[1][0][0]), pair[0][0][1] + pair[1][0][1], pair[0][1], pair[1][1]),
        )
        between = [host for host in hosts if host not in (first, last)]
        visited = [first, *between, last] if first != last else [first]
        return [rank for host in visited for rank in hosts[host]]

    def _path(self, source: int, target: int, loads: _Loads, nbytes: float) -> int:
        here, there = self._fabric.sites[source], self._fabric.sites[target]
        alive = [path for path, rate in enumerate(self._fabric.paths) if sound(rate)]
        if here == there or not alive:
            return -1
        return min(alive, key=lambda path: (*loads.cost([("up", here, path), ("down", there, path)], nbytes), path))
