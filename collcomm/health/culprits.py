"""From flows that fare badly to whose fault it is: a hot cell of the matrix is a link, a row a sender, a column a receiver."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from .finding import Culprit, CulpritKind

Edge = tuple[int, int]  # source, target


class Suspect(NamedTuple):
    """``edges``: those that it explains; ``unsure``: what it may be as well, as far as the traffic can tell."""

    culprit: Culprit
    edges: frozenset[Edge]
    unsure: frozenset[CulpritKind] = frozenset()


def suspects(
    hot: Collection[Edge],
    traffic: Collection[Edge],
    share: float,
    firm: Collection[Edge] | None = None,
    order: Callable[[Edge], float] = lambda edge: 0.0,
) -> list[Suspect]:
    """Whoever explains most is named first. ``traffic``: all flows that are judged; of those of a member, ``share`` have to be
    hot before it is its own fault, and two. ``firm``: those of which that is sure; two flows are too few for guesses. ``order``:
    of two directions of one link, the one with the greater number is named."""
    left = set(hot)
    every = set(traffic) | left
    found = []
    while left:
        best = _best_member(left, every, share, left if firm is None else set(firm))
        if best is None:
            break
        found.append(best)
        left -= best.edges
    for edge in sorted(left, key=lambda edge: (-order(edge), edge)):
        source, target = edge
        if any((target, source) in suspect.edges for suspect in found):
            continue
        found.append(Suspect(Culprit(CulpritKind.LINK, edge), frozenset((edge,)), _unsure(edge, every)))
    return found


def _best_member(hot: set[Edge], every: set[Edge], share: float, firm: set[Edge]) -> Suspect | None:
    found = [
        suspect
        for member in sorted({member for edge in hot for member in edge})
        if (suspect := _member(member, hot, every, share, firm)) is not None
    ]
    return max(found, key=lambda suspect: len(suspect.edges), default=None)


def _member(member: int, hot: set[Edge], every: set[Edge], share: float, firm: set[Edge]) -> Suspect | None:
    out = {edge for edge in every if edge[0] == member}
    into = {edge for edge in every if edge[1] == member}
    hot_out, hot_into = out & hot, into & hot
    row = len(hot_out) >= max(2.0, share * len(out))
    column = len(hot_into) >= max(2.0, share * len(into))
    others = {source if target == member else target for source, target in hot_out | hot_into}
    through = len(others) > 1 and bool(out) and bool(into) and out | into <= firm  # a ring's two
    if (row and column) or through:
        return Suspect(Culprit(CulpritKind.RANK, (member,)), frozenset(hot_out | hot_into))
    if row:
        return Suspect(Culprit(CulpritKind.SENDER, (member,)), frozenset(hot_out))
    if column:
        return Suspect(Culprit(CulpritKind.RECEIVER, (member,)), frozenset(hot_into))
    return None


def _unsure(edge: Edge, every: set[Edge]) -> frozenset[CulpritKind]:
    """A cell that is alone in its row, or in its column, looks like the whole of it."""
    source, target = edge
    alone = set()
    if not any(one == source and other != target for one, other in every):
        alone.add(CulpritKind.SENDER)
    if not any(other == target and one != source for one, other in every):
        alone.add(CulpritKind.RECEIVER)
    return frozenset(alone)
