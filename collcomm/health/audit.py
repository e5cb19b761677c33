"""Which rank made a wrong result, from what the ranks show of a few suspicious blocks: contributions, results, and what each
of them makes of the same contributions when it reduces them again.

Everything here follows from what was exchanged, so that healthy ranks conclude the same. A sick one may conclude something else,
or nothing: ranks therefore vote (`elect`), and act on the outcome.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from .checksums import Bound, Way, block_sums, real_dtype

Array = np.ndarray[Any, Any]
Kernel = Callable[..., Any]
_EXACT: dict[str, np.ufunc] = {
    "sum": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}


class Cause(IntEnum):
    """What is wrong at a rank; a vote is one of these for each."""

    NONE = 0
    CONTRIBUTION = 1
    ARITHMETIC = 2
    COPY = 3
    CHECKSUM = 4
    SUSPECT = 5

    @property
    def text(self) -> str:
        return _TEXTS[self]


_TEXTS = {
    Cause.NONE: "nothing",
    Cause.CONTRIBUTION: "its contribution changed in memory after its checksum was taken",
    Cause.ARITHMETIC: "it reduces wrongly: given the same contributions again, it makes another result",
    Cause.COPY: "its copy of the result differs from the right one",
    Cause.CHECKSUM: "its checksums are not those of what it gives or got",
    Cause.SUSPECT: "it may be the one, as may the others named",
}


@dataclass(frozen=True)
class Shown:
    """What a rank showed of one block; ``before`` and ``after``: its checksums, None where the way has none."""

    contribution: Array
    result: Array
    redone: Array
    before: Any = None
    after: Any = None


@dataclass(frozen=True)
class Evidence:
    """By rank: ``changed`` contributions, hashes of results (``copies``); ``blocks``: of each, what every rank showed.
    ``wrong``: whether the checksums told of corruption for certain, before anything was looked into."""

    op: str
    dtype: np.dtype[Any]
    way: Way
    changed: Sequence[bool]
    copies: Sequence[bytes]
    wrong: bool
    blocks: Sequence[Sequence[Shown]] = field(default=())


def reduce_again(kernel: Kernel, op: str, contributions: Sequence[Array]) -> Array:
    """In the order of ranks, by the ``kernel`` that operations go by here."""
    total = contributions[0].copy()
    with np.errstate(all="ignore"):
        for part in contributions[1:]:
            if total.size == 1:
                total[:] = kernel(total, part)
            else:
                kernel(total, part, out=total)
        if op == "avg":
            np.divide(total, total.dtype.type(len(contributions)), out=total)
    return total


def is_wrong(op: str, contributions: Sequence[Array], value: Array) -> bool:
    """Whether no correct reduction of ``contributions``, in whatever order, gives ``value``."""
    dtype = value.dtype
    rounded = dtype.kind not in "biu" and op in ("sum", "avg", "prod")
    with np.errstate(all="ignore"):
        if rounded:
            wrong = _beyond_product if op == "prod" else _beyond_sum
            return bool(wrong(op, dtype, contributions, value).any())
        expected = contributions[0]
        for part in contributions[1:]:
            expected = _EXACT[op](expected, part)
        return bool(((expected != value) & ~((expected != expected) & (value != value))).any())


def _beyond_sum(op: str, dtype: np.dtype[Any], contributions: Sequence[Array], value: Array) -> Array:
    n, bound = len(contributions), Bound.of(op, dtype, len(contributions))
    parts = np.array([part.view(real_dtype(dtype)).astype(np.float64) for part in contributions])
    found = value.view(real_dtype(dtype)).astype(np.float64)
    scale = np.abs(parts).sum(axis=0)
    off = np.abs(found * (n if op == "avg" else 1) - parts.sum(axis=0)) > bound.of_number(scale, n)
    poisoned = ~np.isfinite(parts).all(axis=0)
    overflows = scale * (1.0 + bound.factor) >= bound.largest
    if dtype.kind == "c" and op == "avg":  # a division: what is not finite in one half spoils both
        poisoned, overflows = _of_either(poisoned), _of_either(overflows)
        return np.where(np.isfinite(found), off & ~poisoned, ~(poisoned | overflows))
    return np.where(np.isfinite(found), off | poisoned, ~(poisoned | overflows))


def _of_either(mask: Array) -> Array:
    return np.repeat(mask.reshape(-1, 2).any(axis=1), 2)


def _beyond_product(op: str, dtype: np.dtype[Any], contributions: Sequence[Array], value: Array) -> Array:
    """Where partial products may overflow or underflow in some order, nothing is known."""
    n, bound = len(contributions), Bound.of(op, dtype, len(contributions))
    wide = np.complex128 if dtype.kind == "c" else np.float64
    parts = np.array([part.astype(wide) for part in contributions])
    found, sizes = value.astype(wide), np.abs(parts)
    most, least = np.maximum(sizes, 1.0).prod(axis=0), np.minimum(sizes, 1.0).prod(axis=0)
    exact = np.isfinite(most) & (2 * most * (1.0 + bound.factor) < bound.largest) & (least > 2 * bound.smallest)
    near = np.abs(found - parts.prod(axis=0)) <= (bound.factor + 8 * n * 2.0**-52) * sizes.prod(axis=0) + bound.floor
    return exact & ~near


def judge(evidence: Evidence) -> Array:
    """A vote: by rank, the `Cause`, as uint8. All NONE: nothing is wrong."""
    n = len(evidence.copies)
    causes = np.zeros(n, np.uint8)
    causes[odd_ones_out(evidence.copies)] = Cause.COPY
    for rank in range(n):
        if evidence.changed[rank]:
            causes[rank] = Cause.CONTRIBUTION
    if any(evidence.changed):
        return causes  # the sums are of what it was, the blocks of what it is
    trouble = evidence.wrong or len(set(evidence.copies)) > 1
    for shown in evidence.blocks:
        trouble = _judge_block(evidence, shown, causes) or trouble
    if trouble and not causes.any():
        causes[:] = Cause.SUSPECT
    return causes


def _judge_block(evidence: Evidence, shown: Sequence[Shown], causes: Array) -> bool:
    """Whether some result is wrong; who is to blame is entered in ``causes``."""
    contributions = [each.contribution for each in shown]
    wrong = [is_wrong(evidence.op, contributions, each.result) for each in shown]
    failing = [is_wrong(evidence.op, contributions, each.redone) for each in shown]
    for rank, each in enumerate(shown):
        if failing[rank]:
            causes[rank] = Cause.ARITHMETIC
        elif wrong[rank] and not all(wrong) and not any(failing):
            causes[rank] = Cause.COPY
        elif _belies(evidence, each) and not causes[rank]:
            causes[rank] = Cause.CHECKSUM
    if not any(wrong) and not odd_ones_out(evidence.copies):
        _compare_bits(shown, failing, causes)
    return any(wrong) or any(failing)


def _belies(evidence: Evidence, shown: Shown) -> bool:
    """Whether the checksums that a rank told are not those of what it shows."""
    return _differs(evidence, shown.before, shown.contribution) or _differs(evidence, shown.after, shown.result)


def _differs(evidence: Evidence, told: Any, data: Array) -> bool:
    if told is None or evidence.way is Way.TWICE:
        return False
    sums, scales = block_sums(data, evidence.way)
    if evidence.way is not Way.ROUNDED:
        return bool(sums[0] != told)
    if not np.isfinite(scales[0]):
        return bool(np.isfinite(told))
    return not abs(float(sums[0]) - float(told)) <= 4096 * 2.0**-52 * float(scales[0])  # another order of 1024 terms


def _compare_bits(shown: Sequence[Shown], failing: Sequence[bool], causes: Array) -> None:
    """Copies that differ, all of them near enough: who has what nobody makes of the contributions has a wrong one, if others
    have what is made of them. For two ranks there is but one order, hence one right result to the bit."""
    made = {each.redone.tobytes() for rank, each in enumerate(shown) if not failing[rank]}
    honest = [each.result.tobytes() in made for each in shown]
    if any(honest):
        for rank, right in enumerate(honest):
            if not right and len({each.result.tobytes() for each in shown}) > 1:
                causes[rank] = causes[rank] or Cause.COPY


def odd_ones_out(values: Sequence[bytes]) -> list[int]:
    """Who differs from what more than half have; nobody where there is no such majority."""
    common, count = Counter(values).most_common(1)[0]
    return [rank for rank, value in enumerate(values) if value != common] if 2 * count > len(values) else []


def elect(votes: Array) -> Array:
    """The outcome of a row of causes from each rank: what most of them say; where no row has more than half, everything that
    any of them says."""
    rows = [bytes(row) for row in votes]
    common, count = Counter(rows).most_common(1)[0]
    if 2 * count > len(rows):
        return np.frombuffer(common, np.uint8)
    causes = votes.max(axis=0)
    sure = np.where(votes == Cause.SUSPECT, 0, votes).max(axis=0)
    return np.where(causes == Cause.SUSPECT, np.where(sure > 0, sure, causes), causes).astype(np.uint8)


def judge_copies(
    before: Sequence[bytes], after: Sequence[bytes], blocks: Sequence[Sequence[bytes]], owners: Sequence[int]
) -> Array:
    """Of collectives that move blocks and compute nothing. ``before``, ``after``: hashes of each rank's contribution;
    ``blocks``: by rank, the hashes of the blocks of its result, which are those of ``owners``."""
    n = len(blocks)
    causes = np.zeros(n, np.uint8)
    for column, owner in enumerate(owners):
        differing = [rank for rank in range(n) if blocks[rank][column] != before[owner]]
        others = [rank for rank in differing if rank != owner]
        spread = {blocks[rank][column] for rank in others}
        if before[owner] != after[owner]:
            causes[owner] = Cause.CONTRIBUTION
        elif len(others) == n - 1 > 1 and len(spread) == 1:
            causes[owner] = Cause.COPY  # all got the same, and not what it has
        else:
            for rank in differing:
                causes[rank] = causes[rank] or Cause.COPY
    return causes
