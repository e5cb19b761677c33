"""Reduction operators: the numpy ufunc for an op and dtype."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]

OPS = ("sum", "avg", "prod", "min", "max", "band", "bor", "bxor")
_UFUNCS: dict[str, np.ufunc] = {
    "sum": np.add,
    "avg": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}
_REPLACED: dict[tuple[str, np.dtype[Any]], Any] = {}
_EXTENSION = tuple(np.dtype(kind) for kind in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2))


def is_supported(dtype: np.dtype[Any]) -> bool:
    """Integers, bool, f16 / f32 / f64, complex, bfloat16 and the fp8 pair e4m3fn, e5m2; native byte order."""
    return (dtype.kind in "iub?fc" and dtype.isnative and dtype.char not in "gG") or dtype in _EXTENSION


def replace_ufunc(op: str, dtype: np.dtype[Any], kernel: Any) -> None:
    """From now on ``kernel(left, right, out=)`` does ``op`` over ``dtype`` in this process, to the same bits (of NaNs, perhaps
    others). ``kernel.__name__`` is the name of numpy's ufunc."""
    _REPLACED[op, dtype] = kernel
    ufunc_for.cache_clear()


@lru_cache(maxsize=256)
def ufunc_for(op: str, dtype: np.dtype[Any]) -> np.ufunc:
    """The ufunc of ``op`` over ``dtype``. Raises ValueError or TypeError saying what does work."""
    if op not in _UFUNCS:
        raise ValueError(f"op {op!r} is not one of {', '.join(OPS)}")
    if op in ("band", "bor", "bxor") and dtype.kind not in "iub":
        raise TypeError(f"op {op!r} needs integers or bool, not {dtype}")
    if op == "avg" and dtype.kind in "iub":
        raise TypeError(f"op 'avg' has no exact result in {dtype}: use 'sum' and divide, or a floating type")
    if op in ("min", "max") and dtype.kind == "c":
        raise TypeError(f"complex numbers have no order: op {op!r} is not defined for {dtype}")
    return _REPLACED.get((op, dtype), _UFUNCS[op])


def combine(ufunc: np.ufunc, left: Array, right: Array, out: Array) -> None:
    """``left`` and ``right`` into ``out``, which may be one of them; the same bits whether it is or not.

    One element, added to where the left one lies, numpy takes for the sum of an axis, and adds the other way round: of two
    NaNs another is left over.
    """
    if out.size == 1:
        out[:] = ufunc(left, right)
    else:
        ufunc(left, right, out=out)
