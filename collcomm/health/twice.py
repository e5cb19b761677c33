"""Reductions that no checksum passes through, done a second time in a shape in which the same fault does not do the same.

min and max are done as each other's mirror image (max(x) = -min(-x); ~x turns the order of integers round), band and bor by
De Morgan, products of integers with a factor of three at one rank. All are shifted by half their length, so that each element
is another rank's to reduce, where ranks share the work.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .checksums import BLOCK, Bound, blocks_in, real_dtype

Array = np.ndarray[Any, Any]
_MIRRORED = {
    "min": "max",
    "max": "min",
    "band": "bor",
    "bor": "band",
    "sum": "band",
    "prod": "bor",
}  # the last two of bool
_FACTOR = 3  # odd, so that no bit of a product is lost


def second_op(op: str, dtype: np.dtype[Any]) -> str:
    return "prod" if op == "prod" and dtype.kind != "b" else _MIRRORED[op]


def second_input(x: Array, op: str, first_rank: bool) -> Array:
    """What a rank contributes to the second run; flat, a copy."""
    return np.roll(_turned(x, op, first_rank), x.size // 2)


def _turned(x: Array, op: str, first_rank: bool) -> Array:
    if op == "prod" and x.dtype.kind != "b":
        tripled = first_rank and x.dtype.kind in "iu"
        return np.multiply(x, x.dtype.type(_FACTOR)) if tripled else x
    return np.logical_not(x) if x.dtype.kind == "b" else ~x if x.dtype.kind in "iu" else np.negative(x)


def differences(result: Array, again: Array, op: str, n: int) -> Array:
    """By block: how many numbers of ``result`` the second run, ``again``, contradicts."""
    expected = _turned(result, op, True)
    found = np.roll(again, -(result.size // 2))
    if np.array_equal(expected, found):  # nearly always, and quicker
        return np.zeros(blocks_in(result.size, result.dtype), np.uint64)
    with np.errstate(all="ignore"):
        if op == "prod" and result.dtype.kind not in "biu":
            same = _close(expected, found, Bound.of(op, result.dtype, n))
        else:
            same = (expected == found) | ((expected != expected) & (found != found))
    wrong = np.repeat(~same, result.dtype.itemsize // real_dtype(result.dtype).itemsize)
    starts = np.arange(0, wrong.size, BLOCK)
    return np.add.reduceat(wrong, starts, dtype=np.uint64) if wrong.size else np.empty(0, np.uint64)


def _close(one: Array, other: Array, bound: Bound) -> Array:
    """Whether both can be roundings of the same product: each is off by ``bound.factor`` of it at most."""
    wide = np.complex128 if one.dtype.kind == "c" else np.float64
    left, right = one.astype(wide), other.astype(wide)
    factor = 2 * bound.factor / (1 - bound.factor) if bound.factor < 1 else np.inf
    near = np.abs(left - right) <= factor * np.minimum(np.abs(left), np.abs(right)) + bound.floor
    finite = np.isfinite(left) & np.isfinite(right)
    return (finite & near) | (left == right) | (np.isnan(left) & np.isnan(right))
