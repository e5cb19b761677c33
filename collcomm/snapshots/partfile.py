"""One peer's part of a checkpoint: a file in the safetensors format, which is 8 bytes of header length, a JSON header, and the
arrays one behind the other.

Arrays are written from where they lie, and slices read by themselves: of a file nothing is read but its header and the bytes
that are wanted. What the library does here is to check the files, so that they are what every reader of the format takes.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..hostviews import Array
from .index import CheckpointInvalid

CODES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
}
LENGTH = struct.Struct("<Q")
MOST_HEADER_BYTES = 100_000_000  # the library's own limit
SPAN_BYTES = 64 << 10  # what is read at once although not all of it is wanted: a system call costs as much
WRITE_BYTES = 64 << 20
Box = tuple[tuple[int, int], ...]  # from, to along each axis


def library() -> Any:
    """The package safetensors. Raises ImportError that says how to get it."""
    try:
        import safetensors
    except ImportError:
        raise ImportError("checkpoints need safetensors: pip install 'collcomm[snapshots]'") from None
    return safetensors


def code_of(name: str, dtype: np.dtype[Any]) -> str:
    """The format's name of ``dtype``. Raises TypeError for what it does not know."""
    if dtype.name not in CODES:
        raise TypeError(f"{name}: safetensors has no dtype {dtype}; view it as another first")
    return CODES[dtype.name]


def write_part(path: Path, arrays: Mapping[str, Array]) -> int:
    """Write ``arrays`` into a new file, durably; returns its size in bytes. Raises OSError; what was written is gone then."""
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))  # so that each is aligned
    header: dict[str, Any] = {}
    first = 0
    for name in order:
        array = arrays[name]
        code = code_of(name, array.dtype)
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [first, first + array.nbytes]}
        first += array.nbytes
    told = json.dumps(header).encode()
    told += b" " * (-len(told) % 8)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            _write(descriptor, LENGTH.pack(len(told)) + told)
            for name in order:
                _write(descriptor, np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        with _opened(path):
            pass
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return LENGTH.size + len(told) + first


def _write(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[:WRITE_BYTES]) :]


def _opened(path: Path) -> Any:
    """The file as the library sees it. Raises CheckpointInvalid for what is not of the format, whole."""
    safetensors = library()
    try:
        return safetensors.safe_open(str(path), framework="numpy")
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointInvalid(f"{path} is damaged: {error}; take another checkpoint") from None


class PartFile:
    """A file that exists, of ``nbytes`` as its index says. Raises CheckpointInvalid for anything else."""

    def __init__(self, path: Path, nbytes: int):
        self.path = path
        try:
            found = os.stat(path, follow_symlinks=False).st_size
        except OSError as error:
            raise CheckpointInvalid(f"{path}: {error.strerror}; take another checkpoint") from None
        if found != nbytes:
            raise CheckpointInvalid(f"{path} has {found} bytes, of {nbytes}: it is truncated; take another checkpoint")
        with _opened(path) as whole:
            self._arrays = {
                name: (part.get_dtype(), tuple(part.get_shape()))
                for name, part in ((name, whole.get_slice(name)) for name in whole.keys())  # noqa: SIM118
            }
        self._first = self._offsets()

    def _offsets(self) -> dict[str, int]:
        descriptor = self._descriptor()
        try:
            (length,) = LENGTH.unpack(os.pread(descriptor, LENGTH.size, 0))
            header = json.loads(os.pread(descriptor, min(length, MOST_HEADER_BYTES), LENGTH.size))
        finally:
            os.close(descriptor)
        start = LENGTH.size + length
        return {name: start + header[name]["data_offsets"][0] for name in self._arrays}

    def _descriptor(self) -> int:
        try:
            return os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise CheckpointInvalid(f"{self.path}: {error.strerror}; take another checkpoint") from None

    def read(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], box: Box, out: Array) -> None:
        """The elements within ``box`` of array ``name``, which is of ``dtype`` and ``shape``, into ``out``."""
        found = self._arrays.get(name)
        if found != (code_of(name, dtype), shape):
            is_there = "nothing" if found is None else f"{found[0]} of shape {list(found[1])}"
            raise CheckpointInvalid(
                f"{self.path} holds {is_there} for {name!r}, its index says {dtype} of shape {list(shape)}; "
                "take another checkpoint"
            )
        descriptor = self._descriptor()
        try:
            _Reading(descriptor, self.path, dtype).box(self._first[name], shape, box, out)
        finally:
            os.close(descriptor)


class _Reading:
    """Boxes out of arrays in a file that is open."""

    def __init__(self, descriptor: int, path: Path, dtype: np.dtype[Any]):
        self._descriptor, self._path, self._dtype = descriptor, path, dtype

    def box(self, first: int, shape: tuple[int, ...], box: Box, out: Array) -> None:
        """``first``: byte in the file at which an array of ``shape`` begins."""
        if not out.size:
            return
        steps = [self._dtype.itemsize]  # bytes from one to the next along each axis
        for length in reversed(shape[1:]):
            steps.insert(0, steps[0] * length)
        start = first + sum(a * step for (a, _), step in zip(box, steps, strict=False))
        extent = sum((b - a - 1) * step for (a, b), step in zip(box, steps, strict=False)) + self._dtype.itemsize
        if extent == out.nbytes:  # all in one row
            self._into(start, out)
        elif extent <= SPAN_BYTES:
            span = np.empty(extent, np.uint8)
            self._fill(start, span.data)
            strided = np.ndarray(out.shape, self._dtype, span.data, strides=steps)
            np.copyto(out, strided)
        else:
            for number in range(box[0][1] - box[0][0]):
                self.box(first + (box[0][0] + number) * steps[0], shape[1:], box[1:], out[number, ...])

    def _into(self, start: int, out: Array) -> None:
        row = out if out.flags.c_contiguous else np.empty(out.shape, self._dtype)
        self._fill(start, row.reshape(-1).view(np.uint8).data)
        if row is not out:
            np.copyto(out, row)

    def _fill(self, start: int, view: memoryview) -> None:
        while view:
            try:
                got = os.preadv(self._descriptor, [view], start)
            except OSError as error:
                raise CheckpointInvalid(f"{self._path}: {error.strerror}; take another checkpoint") from None
            if not got:
                raise CheckpointInvalid(f"{self._path} ends too early; take another checkpoint")
            view, start = view[got:], start + got
