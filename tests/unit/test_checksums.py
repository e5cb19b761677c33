"""Checksums of reductions: correct results never show, wrong ones do, and the audit tells the two apart element by element."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from collcomm.engine.reduction import OPS, ufunc_for
from collcomm.health.audit import is_wrong
from collcomm.health.checksums import (
    BLOCK,
    Bound,
    Suspicion,
    Way,
    block_digests,
    block_sums,
    blocks_in,
    elements_of_block,
    real_dtype,
    suspicion,
    way_of,
)
from collcomm.health.twice import differences, second_input, second_op

Array = np.ndarray[Any, Any]
DTYPES = [
    *map(np.dtype, ("?", "i1", "u1", "i2", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")),
    *map(np.dtype, (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)),
]
FLOATS = [dtype for dtype in DTYPES if dtype.kind not in "biu"]


def fits(op: str, dtype: np.dtype[Any]) -> bool:
    try:
        ufunc_for(op, dtype)
    except (TypeError, ValueError):
        return False
    return True


CASES = [(op, dtype) for op in OPS for dtype in DTYPES if fits(op, dtype)]
IDS = [f"{op}-{dtype.name}" for op, dtype in CASES]
SIZE = 2 * BLOCK + 77


def reduced(contributions: list[Array], op: str, order: str) -> Array:
    """As engines do: from the left, from the right, in a tree, each chunk beginning at another rank."""
    ufunc, n = ufunc_for(op, contributions[0].dtype), len(contributions)
    with np.errstate(all="ignore"):
        if order == "ring":
            total = np.empty_like(contributions[0])
            for chunk, part in enumerate(np.array_split(np.arange(total.size), n)):
                turned = [contributions[(chunk + step) % n][part] for step in range(n)]
                total[part] = reduced(turned, op if op != "avg" else "sum", "left")
        elif order == "tree":
            level = [part.copy() for part in contributions]
            while len(level) > 1:
                pairs = [ufunc(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
                level = pairs + ([level[-1]] if len(level) % 2 else [])
            total = level[0]
        else:
            parts = contributions if order == "left" else contributions[::-1]
            total = parts[0].copy()
            for part in parts[1:]:
                total = ufunc(total, part)
        if op == "avg" and (order != "ring" or n > 0):
            total = np.divide(total, total.dtype.type(n))
    return total.astype(contributions[0].dtype)


def numbers(kind: str, dtype: np.dtype[Any], size: int, rng: np.random.Generator) -> Array:
    """Data that rounding finds hard."""
    if dtype.kind == "b":
        return rng.integers(0, 2, size).astype(bool)
    if dtype.kind in "iu":
        return np.frombuffer(rng.bytes(size * dtype.itemsize), dtype).copy()
    if dtype.kind == "c":
        real = real_dtype(dtype)
        return numbers(kind, real, 2 * size, rng).view(dtype)
    info = ml_dtypes.finfo(dtype)
    most, least = float(info.max), float(info.smallest_subnormal)
    if kind == "plain":
        found = rng.standard_normal(size)
    elif kind == "ranging":  # over all exponents, a random sign
        low, high = np.log2(least), np.log2(most) - 4
        found = np.exp2(rng.uniform(max(low, -1000), min(high, 1000), size)) * rng.choice([-1, 1], size)
    elif kind == "tiny":
        found = rng.integers(-8, 9, size) * least
    elif kind == "biased":  # always rounded the same way
        found = np.full(size, 1.0) + float(info.eps) * rng.integers(0, 3, size)
    elif kind == "huge":  # overflows in some orders
        found = rng.choice([-1, 1], size) * most * rng.uniform(0.5, 1.0, size)
    else:
        found = rng.standard_normal(size)
        found[rng.integers(0, size, 3)] = rng.choice([np.nan, np.inf, -np.inf], 3)
    with np.errstate(all="ignore"):
        return np.clip(found, -most, most, where=np.isfinite(found), out=found).astype(dtype)


def doubt_of(op: str, contributions: list[Array], results: list[Array], before: list[Any] | None = None) -> Suspicion:
    way, dtype = way_of(op, contributions[0].dtype), contributions[0].dtype
    sums = before or [block_sums(x, way) for x in contributions]
    after = np.array([block_sums(y, way)[0] for y in results])
    return suspicion(way, op, dtype, np.array([s for s, _ in sums]), np.array([a for _, a in sums]), after)


def second_run(op: str, contributions: list[Array], order: str) -> Array:
    given = [second_input(x, op, rank == 0) for rank, x in enumerate(contributions)]
    return reduced(given, second_op(op, contributions[0].dtype), order)


def some(op: str, dtype: np.dtype[Any], kind: str, n: int, rng: np.random.Generator) -> list[Array]:
    contributions = [numbers(kind, dtype, SIZE, rng) for _ in range(n)]
    if kind == "plain" and op in ("sum", "avg") and dtype.kind not in "biu" and n > 1:
        contributions[-1] = (-contributions[0].astype(dtype)).astype(dtype)  # cancels
    return contributions


@pytest.mark.parametrize(("op", "dtype"), CASES, ids=IDS)
def test_a_correct_result_never_shows(op: str, dtype: np.dtype[Any]) -> None:
    kinds = ("plain", "ranging", "tiny", "biased", "huge", "poisoned") if dtype.kind not in "biu" else ("plain",)
    for seed in range(4):
        for kind in kinds:
            rng = np.random.default_rng(seed)
            n = int(rng.integers(2, 10))
            contributions = some(op, dtype, kind, n, rng)
            for order in ("left", "right", "tree", "ring"):
                result = reduced(contributions, op, order)
                says = f"{kind}, seed {seed}, {n} ranks, {order}"
                if way_of(op, dtype) is Way.TWICE:
                    odd = differences(result, second_run(op, contributions, order), op, n)
                    blocks = np.flatnonzero(odd)
                    assert not blocks.size or (op == "prod" and dtype in FLOATS), says
                else:
                    doubt = doubt_of(op, contributions, [result] * n)
                    assert not doubt.wrong.any(), says
                    blocks = np.flatnonzero(doubt.unclear)
                    assert not blocks.size or kind in ("huge", "poisoned", "ranging"), says
                for block in blocks:
                    part = elements_of_block(int(block), SIZE, dtype)
                    assert not is_wrong(op, [x[part] for x in contributions], result[part]), says
                assert not is_wrong(op, contributions, result), says


def flipped(data: Array, element: int, bit: int) -> Array:
    wrong = data.copy()
    wrong.view(np.uint8)[element * data.dtype.itemsize + bit // 8] ^= 1 << bit % 8
    return wrong


EXACT = [(op, dtype) for op, dtype in CASES if way_of(op, dtype) in (Way.MODULAR, Way.XOR)]


@pytest.mark.parametrize(("op", "dtype"), EXACT, ids=[f"{op}-{dtype.name}" for op, dtype in EXACT])
def test_any_flipped_bit_of_an_exact_sum_is_found(op: str, dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(5)
    contributions = [numbers("plain", dtype, SIZE, rng) for _ in range(3)]
    sums = [block_sums(x, way_of(op, dtype)) for x in contributions]
    for bit in range(8 * dtype.itemsize):
        element = int(rng.integers(SIZE))
        changed = [flipped(contributions[0], element, bit), *contributions[1:]]
        of_changed = reduced(changed, op, "left")
        of_wrong = flipped(reduced(contributions, op, "left"), element, bit)
        for result in (of_changed, of_wrong):
            if result is of_changed and dtype.kind == "b" and bit:
                continue  # ufuncs see no other bit of a bool
            assert np.flatnonzero(doubt_of(op, contributions, [result] * 3, sums).wrong) == [element // BLOCK]


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("op", ["sum", "avg"])
def test_a_flip_beyond_the_bound_is_found_in_sums(op: str, dtype: np.dtype[Any]) -> None:
    rng, n, found = np.random.default_rng(6), 4, 0
    contributions = [numbers("plain", dtype, SIZE, rng) for _ in range(n)]
    sums = [block_sums(x, Way.ROUNDED) for x in contributions]
    bounds = Bound.of(op, dtype, n).of_block(np.sum([scales for _, scales in sums], axis=0), n)
    result = reduced(contributions, op, "tree")
    times = n if op == "avg" else 1
    for bit in range(8 * dtype.itemsize):
        for element in rng.integers(0, SIZE, 5).tolist():
            wrong = flipped(result, element, bit)
            with np.errstate(all="ignore"):
                change = wrong.view(real_dtype(dtype)).astype("f8") - result.view(real_dtype(dtype)).astype("f8")
            block = element * (dtype.itemsize // real_dtype(dtype).itemsize) // BLOCK
            doubt = doubt_of(op, contributions, [result, wrong, result, result], sums)
            shown = (doubt.wrong | doubt.unclear)[block]
            with np.errstate(over="ignore"):
                size = abs(times * change).max()
            assert shown or size <= 2 * bounds[block], (bit, element)
            found += bool(shown)
            part = elements_of_block(block, SIZE, dtype)
            if shown:  # what a block shows, the audit finds in the element
                assert is_wrong(op, [x[part] for x in contributions], wrong[part]), (bit, element)
    assert found >= 5 if dtype.itemsize > 1 else found >= 0


SECOND = [(op, dtype) for op, dtype in CASES if way_of(op, dtype) is Way.TWICE]


@pytest.mark.parametrize(("op", "dtype"), SECOND, ids=[f"{op}-{dtype.name}" for op, dtype in SECOND])
def test_a_flip_shows_between_two_runs(op: str, dtype: np.dtype[Any]) -> None:
    rng, n = np.random.default_rng(7), 3
    contributions = [numbers("plain", dtype, SIZE, rng) for _ in range(n)]
    result, again = reduced(contributions, op, "left"), second_run(op, contributions, "left")
    rounded = op == "prod" and dtype in FLOATS
    for bit in range(8 * dtype.itemsize if dtype.kind != "b" else 1):
        element = int(rng.integers(SIZE))
        wrong = flipped(result, element, bit)
        if (wrong[element] == result[element]) and dtype.kind != "b":
            continue  # -0.0 for 0.0
        size, allowed = np.inf, 0.0
        if rounded:
            wide = np.complex128 if dtype.kind == "c" else np.float64
            bound, second = Bound.of(op, dtype, n), wide(np.roll(again, -(SIZE // 2))[element])
            with np.errstate(all="ignore"):
                size = abs(wide(wrong[element]) - wide(result[element]))
            allowed = 2 * bound.factor / (1 - bound.factor) * abs(second) + bound.floor
        odd = differences(wrong, again, op, n)
        expected = element * (dtype.itemsize // real_dtype(dtype).itemsize) // BLOCK
        assert odd[expected] or size <= 2 * allowed, (bit, element)
        if not rounded:
            assert is_wrong(op, contributions, wrong)


@pytest.mark.parametrize("dtype", FLOATS, ids=lambda dtype: dtype.name)
def test_what_is_not_finite_must_have_a_reason(dtype: np.dtype[Any]) -> None:
    contributions = [np.ones(100, dtype) for _ in range(3)]
    contributions[1][7] = np.nan
    result = reduced(contributions, "sum", "left")
    assert not is_wrong("sum", contributions, result)
    doubt = doubt_of("sum", contributions, [result] * 3)
    assert doubt.unclear.tolist() == [True] and not doubt.wrong.any()
    lost = result.copy()
    lost[7] = 3
    made = result.copy()
    made[8] = np.nan
    assert is_wrong("sum", contributions, lost) and is_wrong("sum", contributions, made)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, 64 * BLOCK + 1])
def test_blocks_cover_an_array_once(dtype: np.dtype[Any], size: int) -> None:
    data = np.zeros(size, dtype)
    count = blocks_in(size, dtype)
    covered = np.concatenate([np.arange(size)[elements_of_block(i, size, dtype)] for i in range(count)] or [[]])
    assert covered.tolist() == list(range(size))
    assert block_sums(data, way_of("sum", dtype) if dtype.kind != "b" else Way.XOR)[0].size == count
    assert block_digests(data).size == count


def test_an_audit_looks_at_what_differs_first_and_at_unclear_blocks_in_turn() -> None:
    wrong, unclear = np.zeros(50, bool), np.zeros(50, bool)
    wrong[[3, 9]] = True
    unclear[10:30] = True
    doubt = Suspicion(wrong, unclear)
    none = np.empty(0, np.int64)
    assert doubt.choose(4, 0, none) == [3, 9, 10, 11]
    assert doubt.choose(4, 0, np.array([40])) == [3, 9, 10, 40]
    seen = {block for turn in range(200) for block in doubt.choose(4, turn, none)}
    assert seen == {3, 9, *range(10, 30)}
    assert doubt.choose(1, 0, none) == [3]
