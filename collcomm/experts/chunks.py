"""Sparse all-gather and reduce-scatter of chunks, experts' weights and gradients, each as one all_to_all with counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..communicator import Communicator
from ..planner.experts import SparseExchange
from .plans import require_plan, require_view

Array = npt.NDArray[Any]


def sparse_all_gather(
    comm: Communicator,
    chunks: Mapping[int, Array],
    plan: SparseExchange,
    dtype: npt.DTypeLike = np.float32,
    timeout: float | None = None,
) -> dict[int, Array]:
    """Chunks that this rank wants under ``plan``, of `planner.experts.sparse.gather`. Every member calls it.

    :param chunks: chunk -> array, contiguous, of the chunks that this rank holds.
    :param dtype: of all chunks; ranks that hold none must know it, too.
    :returns: chunk -> array: those held, as they are, and those that came, as vectors.
    :raises ViewChanged: see `plans`.
    """
    if plan.reduces:
        raise ValueError("sparse_all_gather needs a plan of sparse.gather, this one is of sparse.scatter")
    came = _carried(comm, chunks, plan, dtype, "sparse_all_gather", timeout)
    found = {chunk: chunks[chunk] for chunk in plan.held(comm.rank)}
    for (chunk, _), array in came.items():
        found[chunk] = array
    return dict(sorted(found.items()))


def sparse_reduce_scatter(
    comm: Communicator,
    partial: Mapping[int, Array],
    plan: SparseExchange,
    dtype: npt.DTypeLike = np.float32,
    timeout: float | None = None,
) -> dict[int, Array]:
    """Sums, over all ranks that have a partial one, of the chunks that this rank keeps under ``plan``, of
    `planner.experts.sparse.scatter`. Every member calls it.

    :param partial: chunk -> array, contiguous: this rank's partial sums, which keep their values.
    :returns: chunk -> vector, added up in the order of the ranks: all keepers have the same bits.
    :raises ViewChanged: see `plans`.
    """
    if not plan.reduces:
        raise ValueError("sparse_reduce_scatter needs a plan of sparse.scatter, this one is of sparse.gather")
    came = _carried(comm, partial, plan, dtype, "sparse_reduce_scatter", timeout)
    rank = comm.rank
    sums: dict[int, Array] = {}
    for chunk in plan.wanted(rank):
        for source, has in enumerate(plan.before[chunk]):
            if has:
                part = _vector(partial, chunk, plan, dtype) if source == rank else came[chunk, source]
                if chunk in sums:
                    sums[chunk] += part
                else:
                    sums[chunk] = np.array(part)
    return sums


def _carried(
    comm: Communicator,
    chunks: Mapping[int, Array],
    plan: SparseExchange,
    dtype: npt.DTypeLike,
    what: str,
    timeout: float | None,
) -> dict[tuple[int, int], Array]:
    """What came, by chunk and source."""
    require_plan(comm, plan.epoch, plan.devices, what)
    rank, epoch = comm.rank, comm.view.epoch
    missing = [chunk for chunk in plan.held(rank) if chunk not in chunks]
    if missing:
        raise ValueError(f"{what}: by the plan this rank, {rank}, has chunk {missing[0]}: give it")
    empty = [np.empty(0, dtype)]
    given = np.concatenate(empty + [_vector(chunks, move.chunk, plan, dtype) for move in plan.sent(rank)])
    sends, receives = plan.matrix[rank], [row[rank] for row in plan.matrix]
    got = comm.all_to_all(given, send_counts=sends, recv_counts=receives, timeout=timeout)
    require_view(comm, epoch, what)
    found, at = {}, 0
    for move in plan.received(rank):
        size = plan.sizes[move.chunk]
        found[move.chunk, move.source] = got[at : at + size]
        at += size
    return found


def _vector(chunks: Mapping[int, Array], chunk: int, plan: SparseExchange, dtype: npt.DTypeLike) -> Array:
    array = np.asarray(chunks[chunk])
    if array.size != plan.sizes[chunk] or array.dtype != dtype:
        raise ValueError(
            f"chunk {chunk} must be of {plan.sizes[chunk]} elements of {np.dtype(dtype)}, not {array.size} of {array.dtype}"
        )
    return array.reshape(-1)
