"""Rings of several groups at once over the same sites: which ranks carry each group's ring across to the next site.

C4P (arXiv 2406.04594) plans few, large, predictable flows instead of leaving them to chance. Here a group's ring stays in a site
until it has seen all of its ranks there, so that it crosses once into each site and once out of it, and the ranks that carry
crossings are taken in turn: each group in order of creation takes those that carry the fewest. The groups before it do not choose
again, for they do not run what a later group would have them run. All is counted in integers: every rank makes the same plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .order import Order, normal

__all__ = ["share_links"]


def share_links(groups: Sequence[Sequence[int]], sites: Sequence[int], order: Sequence[int] = ()) -> tuple[Order, ...]:
    """The ring order of each group, beginning with its least rank.

    ``groups``: the ranks of each, in order of creation; ``sites``: of each rank; ``order``: all ranks as they stand round the
    measured ring (default: by number), kept within a site but for the ranks that carry crossings. The first group takes it as it
    is, as it would alone, if that crosses once into each of its sites.

    :raises ValueError: a group that names a rank twice or one of no site; an order that is not one of all ranks.
    """
    n = len(sites)
    if order and sorted(order) != list(range(n)):
        raise ValueError(f"order must hold each of the ranks 0 to {n - 1} once")
    place = {rank: number for number, rank in enumerate(order or range(n))}
    leaving: Counter[int] = Counter()
    entering: Counter[int] = Counter()
    found = []
    for number, group in enumerate(groups):
        if len(set(group)) != len(group) or not all(rank in place for rank in group):
            raise ValueError(f"group {number} must name each rank once, and ranks from 0 to {n - 1} only")
        ring = sorted(group, key=place.__getitem__)
        by_site = _by_site(ring, sites)
        once = normal(ring) == normal(rank for ranks in by_site.values() for rank in ranks)
        if len(by_site) > 1 and (number or not once):
            ring = [rank for ranks in by_site.values() for rank in _through(ranks, entering, leaving)]
        for source, target in zip(ring, ring[1:] + ring[:1], strict=True):
            if sites[source] != sites[target]:
                leaving[source] += 1
                entering[target] += 1
        found.append(normal(ring))
    return tuple(found)


def _by_site(ranks: list[int], sites: Sequence[int]) -> dict[int, list[int]]:
    """The ranks of each site, both in the order of the cycle ``ranks``, from a place on at which it crosses."""
    start = next((place for place, rank in enumerate(ranks) if sites[rank] != sites[ranks[place - 1]]), 0)
    found: dict[int, list[int]] = {}
    for rank in ranks[start:] + ranks[:start]:
        found.setdefault(sites[rank], []).append(rank)
    return found


def _through(ranks: list[int], entering: Counter[int], leaving: Counter[int]) -> list[int]:
    """The ranks of a site, from one that few crossings enter to another that few leave; among equals as they stood."""
    if len(ranks) == 1:
        return ranks
    entries = sorted((entering[rank], place) for place, rank in enumerate(ranks))[:2]
    exits = sorted((leaving[rank], -place) for place, rank in enumerate(ranks))[:2]
    pairs = [(entry, leave) for entry in entries for leave in exits if entry[1] != -leave[1]]
    (_, first), (_, last) = min(
        pairs, key=lambda pair: (max(pair[0][0], pair[1][0]), pair[0][0] + pair[1][0], pair[0][1], pair[1][1])
    )
    between = [rank for place, rank in enumerate(ranks) if place not in (first, -last)]
    return [ranks[first], *between, ranks[-last]]
