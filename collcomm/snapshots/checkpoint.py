"""Reading a checkpoint: any slice of any array, by any number of peers, whoever saved it (Universal Checkpointing, arXiv
2406.18820)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..hostviews import Array, as_numpy
from ..tensors import tensor_of
from .index import CheckpointInvalid, SavedArray, read_index
from .partfile import Box, PartFile


def even_rows(length: int, size: int, rank: int) -> tuple[int, int]:
    """From and to of the part of ``length`` rows that rank ``rank`` of ``size`` has: they differ by one row at most."""
    if not 0 <= rank < size:
        raise ValueError(f"rank must be from 0 to size - 1, not {rank!r} of {size!r}")
    return length * rank // size, length * (rank + 1) // size


class Checkpoint:
    """A checkpoint on disk, as it was when this object was made. Nothing is held open between calls.

    :raises CheckpointInvalid: there is no whole one in ``directory``.
    """

    def __init__(self, directory: str | PathLike[str]):
        self.directory = Path(directory)
        self._index = read_index(self.directory)
        self._files: dict[int, PartFile] = {}

    @property
    def arrays(self) -> Mapping[str, SavedArray]:
        """What there is, by name."""
        return self._index.arrays

    @property
    def meta(self) -> Any:
        return self._index.meta

    def read(
        self, name: str, ranges: Sequence[tuple[int, int] | None] = (), out: Any = None, tensor: bool = False
    ) -> Any:
        """Of array ``name`` what lies within ``ranges``: from and to along each axis, None or left out for all of it. Only these
        bytes are read (gaps of less than 64 KiB with them).

        :param out: an array or CPU tensor of that shape and dtype, which is written and returned. A new one if None.
        :param tensor: the new one is a tensor of torch, which the program has imported.
        :raises CheckpointInvalid: no such array, or its files are missing, truncated, or not what the index says.
        :raises ValueError: ranges that the array does not have; ``out`` of another dtype or shape.
        """
        saved = self.arrays.get(name)
        if saved is None:
            raise CheckpointInvalid(f"{self.directory} has no array {name!r}; there are {sorted(self.arrays)[:20]}")
        box = _checked_box(name, saved.shape, ranges)
        shape = tuple(stop - start for start, stop in box)
        target = np.empty(shape, saved.dtype) if out is None else as_numpy(out, name)
        if target.shape != shape or target.dtype != saved.dtype:
            raise ValueError(
                f"{name!r} is {saved.dtype} of shape {list(shape)}, out is {target.dtype} of shape {list(target.shape)}"
            )
        self._read(name, saved, box, target)
        if out is not None:
            return out
        return _tensor(target) if tensor else target

    def _read(self, name: str, saved: SavedArray, box: Box, target: Array) -> None:
        axis = saved.axis
        start, stop = box[axis] if box else (0, 1)
        for part in saved.parts:
            first, last = max(start, part.start), min(stop, part.stop)
            if first >= last:
                continue
            if box:
                inside = (*box[:axis], (first - part.start, last - part.start), *box[axis + 1 :])
                rows = target[(slice(None),) * axis + (slice(first - start, last - start),)]
            else:
                inside, rows = (), target
            self._file(part.file).read(name, saved.dtype, saved.shape_of(part), inside, rows)

    def _file(self, number: int) -> PartFile:
        if number not in self._files:
            name, nbytes = self._index.files[number]
            self._files[number] = PartFile(self.directory / name, nbytes)
        return self._files[number]


def load(
    directory: str | PathLike[str],
    rank: int = 0,
    size: int = 1,
    names: Iterable[str] | None = None,
    out: Mapping[str, Any] | None = None,
    tensors: bool = False,
) -> dict[str, Any]:
    """The part of a checkpoint that belongs to rank ``rank`` of ``size``: of sharded arrays its even share of rows along the axis
    by which they were saved (see `even_rows`), replicated ones whole. Nothing is sent: each peer reads for itself.

    :param names: of the arrays wanted; all if None.
    :param out: by name, arrays or CPU tensors of the right dtype and shape, which are written; those left out are new.
    :param tensors: the new ones are tensors of torch.
    :raises CheckpointInvalid: see `Checkpoint`.
    :raises ValueError: ``out`` of another dtype or shape.
    """
    checkpoint = Checkpoint(directory)
    given = out or {}
    found = {}
    for name in checkpoint.arrays if names is None else names:
        saved = checkpoint.arrays.get(name)
        ranges: list[tuple[int, int] | None] = []
        if saved is not None and not saved.replicated and saved.shape:
            ranges = [None] * saved.axis + [even_rows(saved.shape[saved.axis], size, rank)]
        found[name] = checkpoint.read(name, ranges, given.get(name), tensors)
    return found


def _checked_box(name: str, shape: tuple[int, ...], ranges: Sequence[tuple[int, int] | None]) -> Box:
    if len(ranges) > len(shape):
        raise ValueError(f"{name!r} has {len(shape)} axes, not {len(ranges)}")
    box = []
    for axis, length in enumerate(shape):
        found = ranges[axis] if axis < len(ranges) else None
        start, stop = (0, length) if found is None else found
        if not 0 <= start <= stop <= length:
            raise ValueError(f"{name!r} has {length} rows along axis {axis}, not {start} to {stop}")
        box.append((int(start), int(stop)))
    return tuple(box)


def _tensor(array: Array) -> Any:
    if "torch" not in sys.modules:
        raise ValueError("tensors=True is for programs that have imported torch")
    return tensor_of(array)
