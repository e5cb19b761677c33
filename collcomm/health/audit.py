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
from itertools import permutations
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
    Cause.COPY: "its copy of the result is wrong",
    Cause.CHECKSUM: "its checksums are not those of what it gives or got",
    Cause.SUSPECT: "it, or one of the others named, has made or passed on a wrong result",
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
        expected = _chained(op, contributions)
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
    """A vote: by rank, the `Cause`, as uint8. All NONE: nothing is wrong.

    Who fails when it reduces again, or tells checksums that are not those of its data, is named, and nobody else: wrong
    results spread. Else, one rank alone with a wrong result is; of several, one has passed it on to the others.
    """
    n = len(evidence.copies)
    if any(evidence.changed):  # the sums are of what it was, the blocks of what it is
        return _votes(n, [rank for rank in range(n) if evidence.changed[rank]], Cause.CONTRIBUTION)
    blocks = evidence.blocks
    failing = _ranks(blocks, lambda shown, given: is_wrong(evidence.op, given, shown.redone))
    if failing:
        return _votes(n, failing, Cause.ARITHMETIC)
    lying = _ranks(blocks, lambda shown, given: _belies(evidence, shown))
    if lying:
        return _votes(n, lying, Cause.CHECKSUM)
    wrong = _ranks(blocks, lambda shown, given: is_wrong(evidence.op, given, shown.result))
    if not wrong and len(set(evidence.copies)) > 1:
        wrong = _ranks(blocks, lambda shown, given: not _is_possible(evidence.op, given, shown.result))
        if not 0 < len(wrong) < n:
            return judge_by_hash(evidence.copies)
    if wrong or not evidence.wrong:
        return _votes(n, wrong, Cause.COPY if len(wrong) == 1 else Cause.SUSPECT)
    return _votes(n, range(n), Cause.SUSPECT)


def judge_by_hash(copies: Sequence[bytes]) -> Array:
    """A vote, of copies of a result alone. More than half may share a wrong one, where ranks pass on what one of them has
    reduced; that is not seen here."""
    odd = odd_ones_out(copies)
    if len(set(copies)) == 1:
        return _votes(len(copies), [], Cause.NONE)
    return _votes(len(copies), odd or range(len(copies)), Cause.COPY if odd else Cause.SUSPECT)


def _votes(n: int, ranks: Sequence[int], cause: Cause) -> Array:
    causes = np.zeros(n, np.uint8)
    causes[list(ranks)] = cause
    return causes


def _ranks(blocks: Sequence[Sequence[Shown]], test: Callable[[Shown, Sequence[Array]], bool]) -> list[int]:
    """The ranks whose part of some block makes ``test(part, all contributions)`` true."""
    found = set()
    for block in blocks:
        given = [each.contribution for each in block]
        found |= {rank for rank, each in enumerate(block) if rank not in found and test(each, given)}
    return sorted(found)


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


def _is_possible(op: str, contributions: Sequence[Array], value: Array) -> bool:
    """Whether each element of ``value`` has the bits of some order of the reduction: of all orders for up to three ranks,
    else of those that rings, chains, doubling and halving have. For two there is but one."""
    n = len(contributions)
    turned = [[*range(start, n), *range(start)] for start in range(n)]
    orders = list(permutations(range(n))) if n <= 4 else [*turned, *(order[::-1] for order in turned)]
    chains = [_chained(op, [contributions[rank] for rank in order]) for order in orders]
    trees = [_in_pairs(op, [contributions[rank] for rank in order]) for order in orders]
    bits = f"V{value.itemsize}"
    made = [total if op != "avg" else np.divide(total, total.dtype.type(n)) for total in chains + trees]
    return bool(np.any([each.view(bits) == value.view(bits) for each in made], axis=0).all())


def _chained(op: str, parts: Sequence[Array]) -> Array:
    ufunc = _EXACT["sum" if op == "avg" else op]
    with np.errstate(all="ignore"):
        total = parts[0]
        for part in parts[1:]:
            total = ufunc(total, part)
    return total


def _in_pairs(op: str, parts: Sequence[Array]) -> Array:
    """As a tree, and as doubling does it: what exceeds a power of two is folded in first."""
    half = len(parts) // 2
    if len(parts) < 3:
        return _chained(op, parts)
    return _chained(op, [_in_pairs(op, parts[:half]), _in_pairs(op, parts[half:])])


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
