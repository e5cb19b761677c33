"""Tensors as the flat arrays that communicators take: their own memory where it lies in one row, else a copy in host memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch

from ..hostviews import row_of_tensor

Array = np.ndarray[Any, Any]
_MOVED = {  # dtypes that numpy has no name for: they can be moved as these, and nothing else
    torch.float8_e4m3fnuz: torch.uint8,
    torch.float8_e5m2fnuz: torch.uint8,
    torch.complex32: torch.int32,
}


def as_array(tensor: Any) -> Array:
    """The elements of a tensor that `lies_in_row`, on the same memory."""
    if tensor.dtype in _MOVED:
        tensor = tensor.detach().view(_MOVED[tensor.dtype])
    return row_of_tensor(tensor)


def lies_in_row(tensor: Any) -> bool:
    """Whether its elements lie in host memory, one behind the other, as they are."""
    return bool(
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.is_contiguous()
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


class Lent:
    """``tensors``, of one dtype, as one flat ``array``. Where that is a copy, `give_back` brings it to them, and ``reads`` has it
    filled with what they hold. ``flat``: the same memory as a tensor."""

    __slots__ = ("_copied", "_tensors", "array", "flat")

    def __init__(self, tensors: Sequence[Any], reads: bool = True):
        self._tensors = tensors
        self._copied = False
        if len(tensors) == 1 and lies_in_row(tensors[0]):
            self.flat = tensors[0].detach().view(-1)
        elif _lie_in_row(tensors):
            first, size = tensors[0].detach(), sum(tensor.numel() for tensor in tensors)
            self.flat = first.as_strided((size,), (1,))
        else:
            self._copied = True
            self.flat = _copy_of(tensors, reads)
        self.array = as_array(self.flat)

    def give_back(self) -> None:
        if not self._copied:
            return
        edges = accumulate((tensor.numel() for tensor in self._tensors), initial=0)
        for tensor, (start, end) in zip(self._tensors, pairwise(edges), strict=True):
            tensor.detach().copy_(self.flat[start:end].view(tensor.shape))
            if tensor.device.type == "cuda":
                torch.cuda.current_stream(tensor.device).synchronize()


def await_stream(tensors: Sequence[Any]) -> None:
    """What the caller's stream has been given for ``tensors``, all on one device, is done: another thread will read them."""
    first = tensors[0] if tensors else None
    while isinstance(first, list | tuple):
        first = first[0] if first else None
    if first is not None and first.is_cuda:
        torch.cuda.current_stream(first.device).synchronize()


def one_dtype(tensors: Sequence[Any]) -> Any:
    """Raises TypeError where they are of several."""
    dtypes = {tensor.dtype for tensor in tensors}
    if len(dtypes) != 1:
        raise TypeError(f"tensors of one collective are of one dtype, not of {', '.join(sorted(map(str, dtypes)))}")
    return tensors[0].dtype


def rows_of(tensor: Any, splits: Sequence[int], size: int) -> list[int]:
    """Elements of each rank's part of ``tensor`` along the first axis, equal where ``splits`` is empty. Raises ValueError."""
    length = tensor.shape[0] if tensor.dim() else 1
    if not splits:
        if length % size:
            raise ValueError(
                f"a tensor with {length} rows cannot be split equally among {size} ranks: give split sizes"
            )
        splits = [length // size] * size
    elif len(splits) != size or sum(splits) != length or min(splits) < 0:
        raise ValueError(f"split sizes {list(splits)} do not divide {length} rows among {size} ranks")
    width = math.prod(tensor.shape[1:])
    return [count * width for count in splits]


def _lie_in_row(tensors: Sequence[Any]) -> bool:
    """Whether they are neighbours in one storage."""
    if len(tensors) < 2 or not all(lies_in_row(tensor) for tensor in tensors):
        return False
    storage, dtype = tensors[0].untyped_storage().data_ptr(), one_dtype(tensors)
    return all(
        other.untyped_storage().data_ptr() == storage
        and other.data_ptr() == one.data_ptr() + one.numel() * dtype.itemsize
        for one, other in pairwise(tensors)
    )


def _copy_of(tensors: Sequence[Any], reads: bool) -> Any:
    sizes = [tensor.numel() for tensor in tensors]
    flat = torch.empty(sum(sizes), dtype=one_dtype(tensors))
    if reads:
        for tensor, (start, end) in zip(tensors, pairwise(accumulate(sizes, initial=0)), strict=True):
            flat[start:end].view(tensor.shape).copy_(tensor.detach())
    return flat
