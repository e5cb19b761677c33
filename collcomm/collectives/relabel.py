"""Any algorithm in any order of ranks: the schedule of a *position*, with peers and blocks called by the ranks that stand there.

Generators know ranks by number only, and neighbours in number are neighbours in the algorithm. Where some ranks are nearer to
each other than others, it matters who stands beside whom (rank reordering: Mirsadeghi and Afsahi 2016); this is the one place
that sees to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from .schedule import Schedule, Span, Step

# Buffers whose chunk c is the block of rank c, by kind; the chunks of all others are pieces that belong to nobody.
BY_RANK: dict[str, frozenset[str]] = {
    "reduce_scatter": frozenset({"in", "tmp"}),
    "all_gather": frozenset({"out", "tmp"}),
    "all_to_all": frozenset({"in", "out"}),
    "gather": frozenset({"out", "tmp"}),
    "scatter": frozenset({"in", "tmp"}),
}


def relabelled(
    generator: Callable[..., Schedule],
    kind: str,
    n: int,
    rank: int,
    root: int,
    order: tuple[int, ...],
    parameters: dict[str, Any],
) -> Schedule:
    """The schedule of ``rank`` when ``order[position]`` stands at each position of the algorithm.

    ``parameters`` are those of the generator; ``hosts``, if among them, is by rank like everything outside of this function.
    Raises ValueError when ``order`` is no permutation of the ranks.
    """
    if sorted(order) != list(range(n)):
        raise ValueError(f"order {order} is not a permutation of the ranks 0 to {n - 1}: name each rank once")
    place = [0] * n  # position of each rank
    for position, standing in enumerate(order):
        place[standing] = position
    if parameters.get("hosts"):
        parameters = {**parameters, "hosts": tuple(parameters["hosts"][standing] for standing in order)}
    schedule = generator(n, place[rank], place[root], **parameters)
    if schedule.windows:
        raise ValueError(f"{kind} by {schedule.algorithm} goes through windows: ranks stand in no order there")
    mapped = BY_RANK.get(kind, frozenset())
    names = {buffer: order for buffer, count in schedule.chunks.items() if buffer in mapped and count == n}
    steps: list[Step] = []
    for step in schedule.steps:
        peer = order[step.peer] if step.peer >= 0 else -1
        for source, target in _pieces(step, names) if names else [(step.source, step.target)]:
            steps.append(Step(step.action, peer, source, target, step.received_first))
    return replace(schedule, rank=rank, steps=tuple(steps))


def _pieces(step: Step, names: dict[str, tuple[int, ...]]) -> Iterator[tuple[Span | None, Span | None]]:
    """(source, target) of the steps that do what ``step`` does: as few as there are runs of blocks that lie in a row.

    Both ends of a message find the same runs: the blocks are called by the same ranks at both, or are scratch at both.
    """
    source, target = step.source, step.target
    longest = source or target
    assert longest is not None
    width = longest.last - longest.first
    from_, to = _images(source, names), _images(target, names)
    begin = 0
    for end in range(1, width + 1):
        if end == width or any(run is not None and run[end] != run[end - 1] + 1 for run in (from_, to)):
            yield _part(source, from_, begin, end), _part(target, to, begin, end)
            begin = end


def _images(span: Span | None, names: dict[str, tuple[int, ...]]) -> list[int] | range | None:
    if span is None:
        return None
    order = names.get(span.buffer)
    return range(span.first, span.last) if order is None else [order[chunk] for chunk in range(span.first, span.last)]


def _part(span: Span | None, images: list[int] | range | None, begin: int, end: int) -> Span | None:
    if span is None or images is None:
        return None
    return Span(span.buffer, images[begin], images[end - 1] + 1)
