"""The collectives on tensors: what to hand to a communicator, and where its results go. ``seconds``: that each call may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..communicator import Communicator
from .calls import Tensors
from .memory import Lent, as_array, one_dtype, rows_of
from .reductions import Reduction

PACKED_BYTES = 1 << 16  # tensors of a coalesced call that are smaller travel together
PACK_BYTES = 1 << 22  # in rows of this size, at most


def all_reduce(comm: Communicator, tensors: Tensors, reduction: Reduction, seconds: float) -> None:
    """All ``tensors``, of one dtype, as one row."""
    lent = Lent(tensors)
    given = reduction.prepare(lent.flat)
    array = lent.array if given is lent.flat else as_array(given.to(lent.flat.dtype))
    comm.all_reduce(array, op=reduction.op, out=lent.array, timeout=seconds)
    reduction.finish(lent.flat, comm.size)
    lent.give_back()


def all_reduce_coalesced(comm: Communicator, tensors: Tensors, reduction: Reduction, seconds: float) -> None:
    for row in in_rows(tensors):
        all_reduce(comm, row, reduction, seconds)


def in_rows(tensors: Tensors) -> list[list[Any]]:
    """Large tensors one by one, small ones together; equally at all ranks, whose tensors have the same sizes."""
    rows: list[list[Any]] = []
    size = PACK_BYTES
    for tensor in tensors:
        nbytes = tensor.numel() * tensor.element_size()
        if nbytes > PACKED_BYTES:
            rows.insert(0, [tensor])
            continue
        if size + nbytes > PACK_BYTES:
            rows.append([])
            size = 0
        rows[-1].append(tensor)
        size += nbytes
    return rows


def all_reduce_sparse(comm: Communicator, tensor: Any, reduction: Reduction, seconds: float) -> None:
    """The sum (or mean) of sparse tensors (COO), of all their entries: indices and values travel, uneven, and add up where they
    meet. Raises ValueError for other operators."""
    if reduction.op != "sum" or reduction.factor is not None:
        raise ValueError("sparse tensors can be summed and averaged, and nothing else: pass tensor.to_dense()")
    mine = tensor.coalesce()
    while True:
        view = comm.view
        counts = comm.all_gather(np.array([mine.values().shape[0]], np.int64), timeout=seconds).tolist()
        if comm.view is not view:
            continue  # somebody has died: his entries are not counted
        indices = _gather_rows(comm, mine.indices().t(), counts, seconds)
        values = _gather_rows(comm, mine.values(), counts, seconds)
        if comm.view is view:
            break
    reduction.finish(values, comm.size)
    tensor.copy_(torch.sparse_coo_tensor(indices.t(), values, tensor.shape).coalesce())


def _gather_rows(comm: Communicator, rows: Any, counts: Sequence[int], seconds: float) -> Any:
    lent = Lent([rows])
    out = rows.new_empty((sum(counts), *rows.shape[1:]), device="cpu")
    width = rows[:1].numel() if rows.shape[0] else out[:1].numel()
    comm.all_gather(lent.array, out=as_array(out), counts=[count * width for count in counts], timeout=seconds)
    return out


def reduce(comm: Communicator, tensor: Any, root: int, reduction: Reduction, seconds: float) -> None:
    lent = Lent([tensor])
    given = as_array(reduction.prepare(lent.flat).to(lent.flat.dtype))
    out = lent.array if comm.rank == root else None
    comm.reduce(given, root=root, op=reduction.op, out=out, timeout=seconds)
    if comm.rank == root:
        reduction.finish(lent.flat, comm.size)
        lent.give_back()


def reduce_scatter(comm: Communicator, output: Any, inputs: Tensors, reduction: Reduction, seconds: float) -> None:
    """``inputs``: a tensor for each rank, or one for all."""
    lent, result = Lent(inputs), Lent([output], reads=False)
    counts = [tensor.numel() for tensor in inputs] if len(inputs) == comm.size else None
    given = as_array(reduction.prepare(lent.flat).to(lent.flat.dtype))
    comm.reduce_scatter(given, op=reduction.op, out=result.array, counts=counts, timeout=seconds)
    reduction.finish(result.flat, comm.size)
    result.give_back()


def broadcast(comm: Communicator, tensors: Tensors, root: int, seconds: float) -> None:
    lent = Lent(tensors, reads=comm.rank == root)
    comm.broadcast(lent.array, root=root, out=lent.array, timeout=seconds)
    if comm.rank != root:
        lent.give_back()


def all_gather(comm: Communicator, outputs: Tensors, tensor: Any, seconds: float) -> None:
    """``outputs``: a tensor for each rank, or one for all."""
    one_dtype([*outputs, tensor])
    lent, result = Lent([tensor]), Lent(outputs, reads=False)
    counts = [output.numel() for output in outputs] if len(outputs) == comm.size else None
    comm.all_gather(lent.array, out=result.array, counts=counts, timeout=seconds)
    result.give_back()


def gather(comm: Communicator, outputs: Tensors, tensor: Any, root: int, seconds: float) -> None:
    """``outputs``: a tensor for each rank at the root."""
    lent = Lent([tensor])
    if comm.rank != root:
        comm.gather(lent.array, root=root, timeout=seconds)
        return
    one_dtype([*outputs, tensor])
    result = Lent(outputs, reads=False)
    comm.gather(lent.array, root=root, out=result.array, timeout=seconds)
    result.give_back()


def scatter(comm: Communicator, output: Any, inputs: Tensors, root: int, seconds: float) -> None:
    """``inputs``: a tensor for each rank at the root."""
    result = Lent([output], reads=False)
    given = None
    if comm.rank == root:
        one_dtype([*inputs, output])
        given = Lent(inputs).array
    comm.scatter(given, root=root, out=result.array, timeout=seconds)
    result.give_back()


def all_to_all(comm: Communicator, outputs: Tensors, inputs: Tensors, seconds: float) -> None:
    """A tensor for each rank, and one from each."""
    one_dtype([*outputs, *inputs])
    given = [Lent([tensor]).array for tensor in inputs]
    results = [Lent([tensor], reads=False) for tensor in outputs]
    comm.all_to_all(given, out=[result.array for result in results], timeout=seconds)
    for result in results:
        result.give_back()


def all_to_all_single(
    comm: Communicator,
    output: Any,
    tensor: Any,
    receives: Sequence[int],
    sends: Sequence[int],
    seconds: float,
) -> None:
    """``receives`` and ``sends``: rows of each part; equal ones where empty."""
    one_dtype([output, tensor])
    lent, result = Lent([tensor]), Lent([output], reads=False)
    size = comm.size
    counts: dict[str, Any] = {}
    if sends or receives:
        counts = {"send_counts": rows_of(tensor, sends, size), "recv_counts": rows_of(output, receives, size)}
    else:
        rows_of(tensor, (), size)
    comm.all_to_all(lent.array, out=result.array, timeout=seconds, **counts)
    result.give_back()
