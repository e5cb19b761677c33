"""Inputs whose results are known exactly, whatever the order of the sums, and what numpy makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import ml_dtypes
import numpy as np

REDUCERS: dict[str, Callable[[Any, Any], Any]] = {
    "sum": np.add,
    "prod": np.multiply,
    "min": np.minimum,
    "max": np.maximum,
    "band": np.bitwise_and,
    "bor": np.bitwise_or,
    "bxor": np.bitwise_xor,
}
DTYPES = [
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"),
    *("float16", "float32", "float64", "complex64", "complex128"),
    *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
]


def sample(rank: int, size: int, dtype: Any) -> Any:
    """Small whole numbers: exact in every dtype."""
    return (np.arange(size) % 3 + rank % 2).astype(dtype)


def ops_for(dtype: np.dtype[Any]) -> list[str]:
    if dtype.kind in "iub":
        return [*REDUCERS]
    return ["sum", "prod", "avg"] if dtype.kind == "c" else ["sum", "prod", "min", "max", "avg"]


def reduced(op: str, inputs: Sequence[Any]) -> Any:
    """What ``op`` makes of ``inputs``, in their dtype."""
    dtype = inputs[0].dtype
    total = reduce(REDUCERS["sum" if op == "avg" else op], inputs)
    return (total / dtype.type(len(inputs)) if op == "avg" else total).astype(dtype)
