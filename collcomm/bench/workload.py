"""What a bench times: one collective of ours, and the same one of torch.distributed and of raw mpi4py."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import collcomm

Call = Callable[[], Any]
DTYPES = ("float32", "float64", "float16", "bfloat16", "int32", "int64")


def numpy_dtype(name: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def length(kind: str, nbytes: int, itemsize: int, n: int) -> int:
    """Elements of the whole array: ``nbytes``, in blocks of equal size for kinds that work on blocks; at least one."""
    elements = max(1, nbytes // itemsize)
    return elements if kind in ("all_reduce", "broadcast") else max(n, elements // n * n)


def our_call(
    comm: collcomm.Communicator, kind: str, nbytes: int, dtype: str, out_of_place: bool, arrays: Any = np
) -> Call:
    """Our collective as a call without arguments. ``arrays``: numpy or cupy. Raises AssertionError when its result is wrong."""
    n, rank = comm.size, comm.rank
    whole = length(kind, nbytes, numpy_dtype(dtype).itemsize, n)
    block = whole // n
    x = arrays.full(whole, rank + 1, numpy_dtype(dtype))
    y = arrays.zeros(block if kind == "reduce_scatter" else whole, numpy_dtype(dtype))
    part = x[:block]
    calls: dict[str, Call] = {
        "all_reduce": lambda: comm.all_reduce(x, out=y),
        "all_gather": lambda: comm.all_gather(part, out=y),
        "reduce_scatter": lambda: comm.reduce_scatter(x, out=y),
        "all_to_all": lambda: comm.all_to_all(x, out=y),
        "broadcast": lambda: comm.broadcast(x, out=y),
    }
    calls[kind]()
    _verify(kind, y if arrays is np else arrays.asnumpy(y), n)
    if kind == "all_reduce" and not out_of_place:
        x[:] = 0  # stays 0 however often it is summed in place
        return lambda: comm.all_reduce(x, out=x)
    return calls[kind]


def raw_call(comm: Any, kind: str, nbytes: int, dtype: str, out_of_place: bool) -> Call:
    """The same collective of mpi4py, as its documentation shows it."""
    from mpi4py import MPI

    n = comm.Get_size()
    whole = length(kind, nbytes, numpy_dtype(dtype).itemsize, n)
    x = np.full(whole, 0, numpy_dtype(dtype))  # np.zeros would be one page, as long as nobody writes it
    y = np.full(whole // n if kind == "reduce_scatter" else whole, 0, numpy_dtype(dtype))
    part = x[: whole // n]
    calls: dict[str, Call] = {
        "all_reduce": lambda: comm.Allreduce(x, y),
        "all_gather": lambda: comm.Allgather(part, y),
        "reduce_scatter": lambda: comm.Reduce_scatter_block(x, y),
        "all_to_all": lambda: comm.Alltoall(x, y),
        "broadcast": lambda: comm.Bcast(y, 0),
    }
    if kind == "all_reduce" and not out_of_place:
        return lambda: comm.Allreduce(MPI.IN_PLACE, x)
    return calls[kind]


def torch_call(
    distributed: Any, kind: str, nbytes: int, dtype: str, n: int, group: Any = None, async_op: bool = False
) -> Call:
    """The same collective of torch.distributed, in place where it works in place; with ``async_op`` one that is waited for.
    Raises AssertionError when its result is wrong."""
    import torch

    warnings.simplefilter("ignore", FutureWarning)  # torch renames some of these; the old names work everywhere
    whole = length(kind, nbytes, numpy_dtype(dtype).itemsize, n)
    block = whole // n
    x = torch.full((whole,), distributed.get_rank() + 1, dtype=getattr(torch, dtype))
    y = torch.zeros(block if kind == "reduce_scatter" else whole, dtype=getattr(torch, dtype))
    part = x[:block]
    how = {"group": group, "async_op": async_op}
    calls: dict[str, Call] = {
        "all_reduce": lambda: distributed.all_reduce(x, **how),
        "all_gather": lambda: distributed.all_gather_into_tensor(y, part, **how),
        "reduce_scatter": lambda: distributed.reduce_scatter_tensor(y, x, **how),
        "all_to_all": lambda: distributed.all_to_all_single(y, x, **how),
        "broadcast": lambda: distributed.broadcast(x, 0, **how),
    }
    start = calls[kind]
    call = (lambda: start().wait()) if async_op else start
    call()
    in_place = kind in ("all_reduce", "broadcast")
    _verify(kind, (x if in_place else y).to(torch.float64).numpy(), n)
    if kind == "all_reduce":
        x.zero_()
    return call


def _verify(kind: str, result: np.ndarray[Any, Any], n: int) -> None:
    """Every rank gave its rank + 1 everywhere."""
    if kind in ("all_reduce", "reduce_scatter"):
        expected = np.full(result.size, n * (n + 1) // 2)
    elif kind == "broadcast":
        expected = np.ones(result.size)
    else:
        expected = np.repeat(np.arange(1, n + 1), result.size // n)
    if not np.array_equal(result.astype(np.float64), expected):
        raise AssertionError(f"{kind} of {result.size} elements is wrong: {result[:8]} instead of {expected[:8]}")
