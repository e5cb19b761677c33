"""torch's reduction operators in terms of ours, and torch's own kernels for the dtypes that numpy adds slowly."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import torch
import torch.distributed as dist

from ..engine.reduction import replace_ufunc

_RedOp = dist.ReduceOp.RedOpType
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)
_REDUCIBLE = frozenset({torch.bool, torch.complex64, torch.complex128, *_INTEGERS, *_FLOATS})


class Reduction(NamedTuple):
    """``op``: ours. ``factor``: what every rank multiplies its input by first; ``averages``: the sum is divided by the number of
    those who gave something."""

    op: str
    factor: Any = None
    averages: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is all done by ``op``."""
        return self.factor is None and not self.averages

    def prepare(self, flat: Any) -> Any:
        """The input of the operation; not ``flat`` itself where it differs."""
        return flat if self.factor is None else flat * self.factor

    def finish(self, flat: Any, contributors: int) -> None:
        """Make the result of what was summed, in place."""
        if self.averages:
            if flat.dtype.is_floating_point or flat.dtype.is_complex:
                flat.div_(contributors)
            else:
                flat.div_(contributors, rounding_mode="trunc")


_PREMUL_SUM = int(_RedOp.PREMUL_SUM)
_REDUCTIONS = {
    int(_RedOp.SUM): Reduction("sum"),
    int(_RedOp.AVG): Reduction("sum", averages=True),
    int(_RedOp.PRODUCT): Reduction("prod"),
    int(_RedOp.MIN): Reduction("min"),
    int(_RedOp.MAX): Reduction("max"),
    int(_RedOp.BAND): Reduction("band"),
    int(_RedOp.BOR): Reduction("bor"),
    int(_RedOp.BXOR): Reduction("bxor"),
}


def reduction_of(reduce_op: Any, dtype: Any) -> Reduction:
    """``reduce_op``: a ReduceOp, or one of its kinds. Raises TypeError, ValueError."""
    kind = int(getattr(reduce_op, "op", reduce_op))
    if dtype not in _REDUCIBLE:
        raise TypeError(f"{dtype} can be sent and not reduced; convert it first")
    if kind == _PREMUL_SUM:
        return Reduction("sum", factor=reduce_op.factor)
    reduction = _REDUCTIONS.get(kind)
    if reduction is None:
        raise ValueError(f"{reduce_op} is not an operator that can be reduced with")
    return reduction


# -- kernels -----------------------------------------------------------------------------------------------------------

FEW = 2048  # elements: to hand them to torch takes longer than to reduce them
PIECE = 32_704  # elements: below 32,768 torch does not call for its threads, who are busy elsewhere; and it stays in L2


class Kernel:
    """torch's ``function`` in place of ``ufunc``, over arrays whose bits torch takes as ``dtype``."""

    def __init__(self, ufunc: np.ufunc, function: Any, dtype: Any):
        self.__name__ = ufunc.__name__
        self._numpy = ufunc
        self._function = function
        self._dtype = dtype

    def __call__(self, left: Any, right: Any, out: Any = None) -> Any:
        if out is None:
            out = np.empty_like(left)
        if left.size <= FEW:
            return self._numpy(left, right, out=out)
        one, other, result = self._tensor(left), self._tensor(right), self._tensor(out)
        if result.numel() <= PIECE or torch.get_num_threads() == 1:
            self._function(one, other, out=result)
            return out
        for first, second, target in zip(one.split(PIECE), other.split(PIECE), result.split(PIECE), strict=True):
            self._function(first, second, out=target)
        return out

    def _tensor(self, array: Any) -> Any:
        return torch.from_numpy(array.view(np.int16)).view(self._dtype)


def use_kernels() -> None:
    """From now on, this process reduces bfloat16 and float16 with torch's kernels: numpy and ml_dtypes take 4 to 10 times as
    long. Sums have the same bits; where a NaN comes out its payload, and of zeros the sign in min and max, are torch's."""
    functions = {
        "sum": (np.add, torch.add),
        "avg": (np.add, torch.add),
        "prod": (np.multiply, torch.mul),
        "min": (np.minimum, torch.minimum),
        "max": (np.maximum, torch.maximum),
    }
    for dtype, shown in ((ml_dtypes.bfloat16, torch.bfloat16), (np.float16, torch.float16)):
        for op, (ufunc, function) in functions.items():
            replace_ufunc(op, np.dtype(dtype), Kernel(ufunc, function, shown))
