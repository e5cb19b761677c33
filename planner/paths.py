"""Flows on parallel paths and streams on one link: what goes where, by the rates that were measured.

C4P (arXiv 2406.04594) pins each of few large flows to a path, and re-weights paths from completion times. A path whose rate is no
positive finite number is dead. Bytes, seconds, bytes/s; equal input gives equal plans.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_FLOWS = 100_000


def sound(rate: float) -> float:
    """The rate, or 0 for one that makes no sense."""
    return rate if 0 < rate < math.inf else 0.0


def check_amounts(amounts: Sequence[float]) -> None:
    """Raises ValueError for flows (bytes) that nothing can be planned for."""
    if len(amounts) > MOST_FLOWS:
        raise ValueError(f"{len(amounts)} flows are more than the {MOST_FLOWS} that are planned at once")
    if wrong := [amount for amount in amounts if not 0 <= amount < math.inf]:
        raise ValueError(f"a flow of {wrong[0]} bytes makes no sense; give finite numbers from 0")


def spread_paths(
    flows: Sequence[float],
    paths: Sequence[float],
    before: Sequence[int] | None = None,
    tolerance: float = 0.05,
) -> tuple[int, ...]:
    """For each flow (bytes) the number of its path (bytes/s), so that the path that takes longest takes as little as can be.

    The longest flow first to the path where it ends soonest (Graham 1969); then flows move, or change places, as long as that
    helps. With ``before``, the assignment in use, a flow stays where it is unless its path is dead or moving it makes the
    longest path shorter by more than ``tolerance`` of it. A path whose rate is no positive finite number is dead: it gets
    nothing.

    :raises ValueError: no path is alive, or a flow makes no sense.
    """
    rates = [sound(rate) for rate in paths]
    check_amounts(flows)
    if not any(rates):
        raise ValueError(f"none of the {len(rates)} paths is alive; give at least one that has a rate")
    if before is not None and len(before) != len(flows):
        raise ValueError(f"the assignment in use is for {len(before)} flows, but there are {len(flows)}")
    load = [0.0] * len(rates)
    chosen = [-1] * len(flows)
    for flow, path in enumerate(before or ()):
        if 0 <= path < len(rates) and rates[path]:
            chosen[flow] = path
            load[path] += flows[flow]
    alive = [path for path, rate in enumerate(rates) if rate]
    for flow in sorted(range(len(flows)), key=lambda flow: (-flows[flow], flow)):
        if chosen[flow] < 0:
            path = min(alive, key=lambda path: ((load[path] + flows[flow]) / rates[path], path))
            chosen[flow] = path
            load[path] += flows[flow]
    least = 1e-9 if before is None else tolerance
    for _ in range(4 * len(flows)):
        if not _relieve(flows, rates, alive, chosen, load, least):
            break
    return tuple(chosen)


def _relieve(
    flows: Sequence[float], rates: list[float], alive: list[int], chosen: list[int], load: list[float], least: float
) -> bool:
    """The one move off the longest path, or exchange with another, that makes the longer of the two shortest."""
    worst = max(alive, key=lambda path: (load[path] / rates[path], -path))
    limit = load[worst] / rates[worst] * (1 - least)
    found: tuple[float, int, int, int] | None = None
    mine = [flow for flow, path in enumerate(chosen) if path == worst and flows[flow] > 0]
    for path in alive:
        if path == worst:
            continue
        theirs = [-1, *(flow for flow, where in enumerate(chosen) if where == path)]
        for flow in mine:
            for other in theirs if len(theirs) * len(mine) <= MOST_FLOWS else theirs[:1]:
                moved = flows[flow] - (flows[other] if other >= 0 else 0.0)
                longer = max((load[worst] - moved) / rates[worst], (load[path] + moved) / rates[path])
                if longer < limit and (found is None or (longer, flow, path, other) < found):
                    found = (longer, flow, path, other)
    if found is None:
        return False
    _, flow, path, other = found
    chosen[flow] = path
    if other >= 0:
        chosen[other] = worst
    for end in (worst, path):
        load[end] = 0.0
        for number, where in enumerate(chosen):
            if where == end:
                load[end] += flows[number]
    return True


def reweight(
    weights: Sequence[float], seconds: Sequence[float], nbytes: Sequence[float], smoothing: float = 0.5
) -> tuple[float, ...]:
    """The paths' rates after flows have completed: the old rate, and by ``smoothing`` the one just seen (bytes / seconds).

    A path that carried nothing, or whose report makes no sense, keeps its weight; one that took for ever (inf) is dead. One
    report changes a live weight by at most a factor of eight.

    :raises ValueError: lists of different lengths; a smoothing that is not from 0 to 1.
    """
    if not len(weights) == len(seconds) == len(nbytes):
        raise ValueError(
            f"{len(weights)} weights, {len(seconds)} times and {len(nbytes)} amounts; give one each for every path"
        )
    if not 0 <= smoothing <= 1:
        raise ValueError(f"smoothing must be from 0 to 1, not {smoothing!r}")
    renewed = []
    for old, took, amount in zip(map(sound, weights), seconds, nbytes, strict=True):
        if took == math.inf and amount > 0:
            renewed.append(0.0)
        elif not (sound(took) and sound(amount) and sound(amount / took)):
            renewed.append(old)
        else:
            seen = amount / took
            bounded = min(8 * old, max(old / 8, seen)) if old else seen
            renewed.append((1 - smoothing) * old + smoothing * bounded if old else bounded)
    return tuple(renewed)
