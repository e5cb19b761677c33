"""A lost stage of a pipeline from its two neighbours: CheckFree (arXiv 2506.15461). No copy and no checkpoint is needed; what
comes out is not what was lost, but near enough to train on from.

A stage becomes the mean of the one before and the one after, each weighted by the norm of its last gradient: the stage that
is still learning more counts for more. The first and the last stage have one neighbour only; they are refused here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..errors import CollectiveMismatch
from ..hostviews import Array, as_numpy
from ..tensors import is_tensor, tensor_of

TAG = (1 << 31) - 2  # of messages, beside those that programs number from 0, and below those of gossip
EDGE = "the first and the last stage of a pipeline have one neighbour only: keep copies of them (Snapshots), or load a checkpoint"


class Pairs(Protocol):
    """What is needed of a `collcomm.Communicator`."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def send(self, x: Any, dst: int, tag: int = 0, *, timeout: float | None = None) -> Any: ...

    def recv(self, out: Any, src: int, tag: int = 0, *, timeout: float | None = None) -> Any: ...


def gradient_norm(gradients: Mapping[str, Any]) -> float:
    """The Euclidean norm of all ``gradients`` (numpy arrays or CPU tensors) together: a stage's weight."""
    squares = 0.0
    for name, gradient in gradients.items():
        squares += float(np.square(as_numpy(gradient, name).astype(np.float64)).sum())
    return math.sqrt(squares)


def neighbour_mean(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, weight_before: float, weight_after: float
) -> dict[str, Any]:
    """The parameters (numpy arrays or CPU tensors of floating dtypes, by name) of the stage between two others:
    (weight_before * before + weight_after * after) / (weight_before + weight_after), summed in float32 or wider, in the dtype and
    kind that ``before`` has. Two weights of 0 make a plain mean.

    :raises ValueError: an edge of the pipeline (one of the two is None); names, shapes or dtypes that differ; weights that are
        negative or not finite.
    """
    if before is None or after is None:
        raise ValueError(f"a stage is rebuilt from two neighbours: {EDGE}")
    share = _share(weight_before, weight_after)
    if set(before) != set(after):
        raise ValueError(f"neighbours have parameters of other names: {sorted(set(before) ^ set(after))[:5]}")
    found: dict[str, Any] = {}
    for name in before:
        mean = _mean(name, as_numpy(before[name], name), as_numpy(after[name], name), share)
        found[name] = tensor_of(mean) if is_tensor(before[name]) else mean
    return found


def rebuild_stage(
    comm: Pairs,
    before: int,
    lost: int,
    after: int,
    params: Mapping[str, Any],
    weight: float | None = None,
    timeout: float | None = None,
) -> None:
    """`neighbour_mean` over messages. Three ranks call it: ``before`` and ``after`` with their ``params`` and the ``weight`` of
    each; ``lost``, the newcomer, with params that have the right names, shapes and dtypes, which are overwritten once both
    neighbours' have come.

    :param timeout: seconds for each message; the communicator's ``op_timeout`` if None.
    :raises ValueError: three ranks that are not different ones of the group, as where the lost stage is the first or the last; a
        neighbour without a weight.
    :raises CollectiveMismatch: parameters have other names, shapes or dtypes than the newcomer's; at all three.
    :raises PeerLost: one of the three has died; the newcomer's params are as they were.
    """
    for rank in (before, lost, after):
        if not 0 <= rank < comm.size:
            raise ValueError(f"there is no rank {rank!r} in a group of {comm.size}: {EDGE}")
    if len({before, lost, after}) != 3 or comm.rank not in (before, lost, after):
        raise ValueError(
            f"three different ranks rebuild a stage, and they alone call this; not {before}, {lost}, {after}"
        )
    arrays = {name: as_numpy(params[name], name) for name in sorted(params)}
    if comm.rank == lost:
        _rebuild(comm, (before, after), arrays, timeout)
        return
    if weight is None:
        raise ValueError("a neighbour gives its weight: the norm of its last gradient (gradient_norm)")
    _share(weight, 0.0)
    _offer(comm, lost, arrays, weight, timeout)


def _offer(comm: Pairs, lost: int, arrays: Mapping[str, Array], weight: float, timeout: float | None) -> None:
    comm.send(np.array([weight]), lost, TAG, timeout=timeout)
    comm.send(np.array([_fingerprint(arrays)], np.int64), lost, TAG, timeout=timeout)
    fits = np.empty(1, np.int64)
    comm.recv(fits, lost, TAG, timeout=timeout)
    if not fits[0]:
        raise CollectiveMismatch(f"not all stages have parameters of the names, shapes and dtypes that rank {lost} has")
    for array in arrays.values():
        comm.send(array, lost, TAG, timeout=timeout)


def _rebuild(comm: Pairs, neighbours: tuple[int, int], arrays: Mapping[str, Array], timeout: float | None) -> None:
    weights, layouts = np.empty(2), np.empty(2, np.int64)
    for number, rank in enumerate(neighbours):
        comm.recv(weights[number : number + 1], rank, TAG, timeout=timeout)
        comm.recv(layouts[number : number + 1], rank, TAG, timeout=timeout)
    others = [rank for rank, layout in zip(neighbours, layouts, strict=True) if layout != _fingerprint(arrays)]
    for rank in neighbours:
        comm.send(np.array([not others], np.int64), rank, TAG, timeout=timeout)
    if others:
        raise CollectiveMismatch(
            f"ranks {others} have parameters of other names, shapes or dtypes than the stage to rebuild"
        )
    found = [{name: np.empty_like(array) for name, array in arrays.items()} for _ in neighbours]
    for rank, stage in zip(neighbours, found, strict=True):
        for array in stage.values():
            comm.recv(array, rank, TAG, timeout=timeout)
    before, after = found
    for name, mean in neighbour_mean(before, after, float(weights[0]), float(weights[1])).items():
        np.copyto(arrays[name], mean)


def _share(weight_before: float, weight_after: float) -> float:
    """Of the one before, from 0 to 1."""
    for weight in (weight_before, weight_after):
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"a weight is the norm of a gradient: finite and not negative, not {weight!r}")
    most = max(weight_before, weight_after)
    if most == 0:
        return 0.5
    one, other = weight_before / most, weight_after / most  # their sum may be more than a float holds
    return one / (one + other)


def _mean(name: str, one: Array, other: Array, share: float) -> Array:
    if one.shape != other.shape or one.dtype != other.dtype:
        raise ValueError(
            f"{name}: {one.dtype} of shape {list(one.shape)} before, {other.dtype} of shape {list(other.shape)} after"
        )
    if not np.can_cast(one.dtype, np.float64) or np.can_cast(one.dtype, np.int64):
        raise ValueError(f"{name}: a mean of {one.dtype} makes no sense; give parameters of a floating dtype")
    wide = np.float64 if one.dtype == np.float64 else np.float32
    mean = np.multiply(one.astype(wide), wide(share))
    mean += np.multiply(other.astype(wide), wide(1 - share))
    return mean.astype(one.dtype)


def _fingerprint(arrays: Mapping[str, Array]) -> int:
    """63 bits of a hash over names, shapes and dtypes."""
    layout = ";".join(f"{name}:{array.dtype}{array.shape}" for name, array in arrays.items())
    return int.from_bytes(hashlib.sha256(layout.encode()).digest()[:8], "little") >> 1
