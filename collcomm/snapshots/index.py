"""What a checkpoint consists of: one JSON file, written last, that names all others. Whatever is wrong with it is found when
it is read, before any other file is opened.

    {"version": 1, "meta": ..., "files": [["part-...", bytes], ...],
     "arrays": {"w": {"dtype": "bfloat16", "shape": [1000, 64], "axis": 0, "replicated": false,
                      "parts": [[0, 0, 334], [1, 334, 667], [2, 667, 1000]]}}}     # file, from row, to row along the axis
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CollcommError
from .shard import MOST_ARRAYS, MOST_BYTES, dtype_of

VERSION = 1
INDEX_NAME = "checkpoint.json"
PART_NAME = re.compile(r"part-[0-9a-f]{16}-\d{5}\.safetensors")
MOST_INDEX_BYTES = 256 << 20
MOST_FILES = 100_000
MOST_AXES = 64  # numpy's own limit


class CheckpointInvalid(CollcommError):
    """There is no whole checkpoint, or one that cannot be believed, or not what was asked for."""


@dataclass(frozen=True)
class Part:
    """Rows ``start`` to ``stop`` along the array's axis lie in file number ``file``."""

    file: int
    start: int
    stop: int


@dataclass(frozen=True)
class SavedArray:
    """``parts`` cover ``shape`` along ``axis``, in order. ``replicated``: all peers that saved it held all of it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    axis: int
    replicated: bool
    parts: tuple[Part, ...]

    def shape_of(self, part: Part) -> tuple[int, ...]:
        """Of a part, as it lies in its file."""
        if not self.shape:
            return ()
        return (*self.shape[: self.axis], part.stop - part.start, *self.shape[self.axis + 1 :])


@dataclass(frozen=True)
class Index:
    """``files``: name and size in bytes of each."""

    arrays: Mapping[str, SavedArray]
    files: tuple[tuple[str, int], ...]
    meta: Any = None

    def encoded(self) -> bytes:
        arrays = {
            name: {
                "dtype": saved.dtype.name,
                "shape": list(saved.shape),
                "axis": saved.axis,
                "replicated": saved.replicated,
                "parts": [[part.file, part.start, part.stop] for part in saved.parts],
            }
            for name, saved in self.arrays.items()
        }
        files = [list(file) for file in self.files]
        return json.dumps({"version": VERSION, "meta": self.meta, "files": files, "arrays": arrays}).encode()

    @classmethod
    def decoded(cls, data: bytes) -> Index:
        """Raises ValueError, or another error of data that has not the form above."""
        told = json.loads(data)
        if not isinstance(told, dict) or told.get("version") != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        files = tuple((_file_name(name), _number(size, MOST_BYTES)) for name, size in told["files"])
        if len(files) > MOST_FILES or len(told["arrays"]) > MOST_ARRAYS:
            raise ValueError("it names too many files or arrays")
        arrays = {name: _array(name, row, len(files)) for name, row in told["arrays"].items()}
        return cls(arrays, files, told["meta"])


def read_index(directory: Path) -> Index:
    """Raises CheckpointInvalid."""
    path = directory / INDEX_NAME
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MOST_INDEX_BYTES:
                raise CheckpointInvalid(f"{path} is larger than {MOST_INDEX_BYTES >> 20} MiB; that is no index")
            data = file.read(MOST_INDEX_BYTES)
    except OSError as error:
        raise CheckpointInvalid(
            f"{path}: {error.strerror}; without its index there is no whole checkpoint (was a save interrupted?)"
        ) from None
    try:
        return Index.decoded(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointInvalid(f"{path} is not the index of a checkpoint: {error}; take another checkpoint") from None


def write_index(directory: Path, index: Index) -> None:
    """Put it in place at once and durably: whoever looks finds the index before, or this one. Raises OSError."""
    scratch = directory / f"{INDEX_NAME}.new"
    with open(scratch, "wb") as file:
        file.write(index.encoded())
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, directory / INDEX_NAME)
    sync_directory(directory)


def sync_directory(directory: Path) -> None:
    """The names in it are durable when this returns. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _array(name: str, row: Any, files: int) -> SavedArray:
    shape = tuple(_number(length, MOST_BYTES) for length in row["shape"])
    axis = _number(row["axis"], max(0, len(shape) - 1))
    parts = tuple(
        Part(_number(f, files - 1), _number(a, MOST_BYTES), _number(b, MOST_BYTES)) for f, a, b in row["parts"]
    )
    length = shape[axis] if shape else 1
    at = 0
    for part in parts:
        if part.start != at or part.stop <= part.start:
            raise ValueError(f"the parts of {name!r} have gaps, or lie over each other")
        at = part.stop
    if at != length or len(shape) > MOST_AXES:
        raise ValueError(f"the parts of {name!r} reach to {at} of {length}")
    if not isinstance(row["replicated"], bool):
        raise ValueError(f"{name!r} must be replicated or not")
    return SavedArray(dtype_of(row["dtype"]), shape, axis, row["replicated"], parts)


def _file_name(name: Any) -> str:
    if not isinstance(name, str) or not PART_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a part; an index names files of its own directory only")
    return name


def _number(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r} is not a number from 0 to {most}")
    return value
