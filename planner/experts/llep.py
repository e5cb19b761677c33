"""Least-loaded expert parallelism (LLEP, 2026): tokens of overloaded devices go to others, and the weights go with them.

Plain expert parallelism sends every token to the device where its expert is at home, so a few popular experts make one device
the slowest. `dispatch` moves a device's excess, largest experts first, in chunks that are worth a copy of the weights. Every
rank computes it for itself from the same loads: integers only, ties to the lowest number.

The *effective* load of a device is what it has been given plus what its own experts, not yet looked at, will bring. With the
capacity C = ceil(alpha * total / P), alpha >= 1, and chunks of m tokens, no device ends above C + m - 1: a device keeps an
excess below m; a chunk goes where the effective load is least, which is below C as long as somebody's is above, and is larger
than the room there only where it has m tokens, or where fewer than m would be left over. So max / mean <= alpha + m / mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

THRESHOLD = 1.3  # max / mean below which weights are better left at home
CHUNK = 1024  # tokens: with fewer, moving an expert's weights costs more than it spares
MAX_EXPERTS, MAX_DEVICES, MAX_TOKENS = 1 << 16, 1 << 12, 1 << 48


class Share(NamedTuple):
    """Tokens ``start`` to ``stop`` - 1 of an expert, counted over all sources by rank, are computed on ``device``."""

    device: int
    start: int
    stop: int

    @property
    def tokens(self) -> int:
        return self.stop - self.start


class Copy(NamedTuple):
    """The weights of ``expert`` are needed on ``target`` and lie on ``source``, its home."""

    expert: int
    source: int
    target: int


@dataclass(frozen=True)
class Dispatch:
    """Where the tokens of each expert are computed.

    ``shares``: by expert, ascending by device and by token; together they hold each token once. ``copies``: by expert, then by
    target. ``spilled`` is False where plain expert parallelism is good enough. ``epoch``: of the view whose ranks the devices
    are; a plan for another view is refused.
    """

    devices: int
    home: tuple[int, ...]
    shares: tuple[tuple[Share, ...], ...]
    spilled: bool
    epoch: int = 0

    @cached_property
    def copies(self) -> tuple[Copy, ...]:
        return tuple(
            Copy(expert, self.home[expert], share.device)
            for expert, shares in enumerate(self.shares)
            for share in shares
            if share.device != self.home[expert]
        )

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """Tokens that each device computes."""
        found = [0] * self.devices
        for shares in self.shares:
            for share in shares:
                found[share.device] += share.tokens
        return tuple(found)

    @property
    def imbalance(self) -> float:
        """The largest load over the mean; 1 without any tokens."""
        return _imbalance(self.tokens)

    @property
    def placement(self) -> tuple[tuple[bool, ...], ...]:
        """[expert][device]: whether it needs the weights, or is their home; what `sparse.gather` is to bring about."""
        rows = [[device == home for device in range(self.devices)] for home in self.home]
        for copy in self.copies:
            rows[copy.expert][copy.target] = True
        return tuple(map(tuple, rows))


def dispatch(
    loads: Sequence[int],
    home: Sequence[int],
    devices: int,
    *,
    alpha: float = 1.0,
    threshold: float = THRESHOLD,
    chunk: int = CHUNK,
    epoch: int = 0,
) -> Dispatch:
    """Plan for ``loads[expert]`` tokens, the experts at ``home[expert]``.

    :param alpha: capacity of a device over the mean load, at least 1: more leaves more tokens at home.
    :param threshold: plain expert parallelism where max / mean is below it.
    :param chunk: tokens that are worth a copy of the weights. Fewer travel only where an expert has no more, or no more left.
    """
    loads, home = _checked(loads, home, devices)
    if not (1 <= alpha < math.inf and threshold >= 0 and 1 <= chunk <= MAX_TOKENS):
        raise ValueError(
            f"alpha must be a finite number >= 1, threshold >= 0 and chunk >= 1, not {alpha}, {threshold}, {chunk}"
        )
    at_home = [0] * devices
    for expert, load in enumerate(loads):
        at_home[home[expert]] += load
    if _imbalance(at_home) < threshold:
        shares = [[Share(home[expert], 0, load)] if load else [] for expert, load in enumerate(loads)]
        return Dispatch(devices, home, tuple(map(tuple, shares)), False, epoch)
    capacity = math.ceil(Fraction(alpha) * sum(loads) / devices)
    effective = at_home
    parts: list[dict[int, int]] = [{} for _ in loads]
    for expert in sorted(range(len(loads)), key=lambda expert: (-loads[expert], expert)):
        parts[expert] = _place(loads[expert], home[expert], effective, capacity, chunk)
    return Dispatch(devices, home, tuple(_ranges(part) for part in parts), True, epoch)


def _place(load: int, native: int, effective: list[int], capacity: int, chunk: int) -> dict[int, int]:
    """Tokens of one expert by device; changes ``effective`` accordingly."""
    excess = effective[native] - capacity
    spill = min(load, excess) if excess >= chunk else 0
    given = {native: load - spill} if load > spill else {}
    if not spill:
        return given
    effective[native] -= spill
    others = [device for device in range(len(effective)) if device != native]
    left = spill
    while left:
        if left < min(chunk, spill) and effective[native] + left < capacity + chunk:
            given[native] = given.get(native, 0) + left  # a rest that the native device can bear
            effective[native] += left
            break
        target = min(others, key=lambda device: (effective[device], device))
        room = capacity - effective[target]
        piece = left if left <= room or left - room < chunk else max(room, chunk)
        given[target] = given.get(target, 0) + piece
        effective[target] += piece
        left -= piece
    return given


def _ranges(given: dict[int, int]) -> tuple[Share, ...]:
    """Ascending by device: sources are ascending, too, so that more tokens find that they are where they have to be."""
    shares, start = [], 0
    for device in sorted(given):
        shares.append(Share(device, start, start + given[device]))
        start += given[device]
    return tuple(shares)


def _checked(loads: Sequence[int], home: Sequence[int], devices: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    tokens, homes = tuple(int(load) for load in loads), tuple(int(device) for device in home)
    if not 1 <= devices <= MAX_DEVICES:
        raise ValueError(f"devices must be from 1 to {MAX_DEVICES}, not {devices}")
    if not 1 <= len(tokens) <= MAX_EXPERTS or len(homes) != len(tokens):
        raise ValueError(
            f"loads and home must tell of the same 1 to {MAX_EXPERTS} experts, not {len(tokens)} and {len(homes)}"
        )
    if min(tokens) < 0 or sum(tokens) > MAX_TOKENS:
        raise ValueError(f"loads must not be negative, nor sum to more than {MAX_TOKENS}")
    if min(homes) < 0 or max(homes) >= devices:
        raise ValueError(f"home must name devices from 0 to {devices - 1}, not {min(homes)} to {max(homes)}")
    return tokens, homes


def _imbalance(tokens: Sequence[int]) -> float:
    total = sum(tokens)
    return max(tokens) * len(tokens) / total if total else 1.0
