"""Writing a checkpoint: each peer its own part, then the index, after which it is whole.

    1. All tell what they have; what does not fit together is found by all of them.
    2. Each writes a new file, durably, and tells whether that went well. If it did not at one of them, all take theirs away.
    3. Rank 0 looks whether it sees all the files, and puts the index in place, in one step and durably. Files that no index names
       any more go.

Until the index has been replaced the checkpoint before it is whole, whatever happens and whoever dies. From 3. on a peer takes
its file away only if rank 0 says that it has failed: a peer that has not heard cannot know whether the index names it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import CollcommError, CollectiveMismatch, PeerLost
from ..hostviews import Array, as_numpy
from ..types import View
from .checkpoint import even_rows
from .index import PART_NAME, CheckpointInvalid, Index, Part, SavedArray, read_index, sync_directory, write_index
from .partfile import code_of, library, write_part
from .shard import dtype_of

DEFAULT_SECONDS = 600.0  # for a slow disk


class SaveFailed(CollcommError):
    """A peer could not write its part; at all peers. The checkpoint before, if there is one, is as it was."""


class Saving(Protocol):
    """What is needed of a `collcomm.Communicator`."""

    @property
    def view(self) -> View: ...

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_gather_object(self, value: Any, *, timeout: float | None = None) -> list[Any]: ...


def save(
    comm: Any,
    directory: str | PathLike[str],
    arrays: Mapping[str, Any],
    replicated: Collection[str] = (),
    axes: Mapping[str, int] | None = None,
    meta: Any = None,
    timeout: float = DEFAULT_SECONDS,
) -> None:
    """Save the arrays of all members of ``comm`` into ``directory``, which all of them see, in place of the checkpoint there. All
    call it with the same names; one save at a time for a directory.

    :param arrays: name -> numpy array or CPU tensor: this peer's block of an array that is sharded by rank, the next block
        behind the one of the rank before; of any number of rows, also none.
    :param replicated: names of arrays that all peers hold alike and whole. They are saved once, a part by each peer.
    :param axes: by name, the axis along which blocks lie behind each other; the first if not given.
    :param meta: what JSON can hold; that of rank 0 is saved.
    :param timeout: seconds for each of the three stages.
    :raises SaveFailed: a peer could not write (disk full, no permission), or does not see the others' files.
    :raises CollectiveMismatch: peers gave different names, dtypes or shapes.
    :raises PeerLost: a member died meanwhile; the checkpoint there is whole, the one before or this one.
    :raises TypeError: what is no array, or a dtype that the format does not have.
    """
    if not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds, not {timeout!r}")
    _Save(comm, Path(directory), timeout).run(arrays, replicated, axes or {}, meta)


class _Save:
    """One save of one peer."""

    def __init__(self, comm: Saving, directory: Path, timeout: float):
        self._comm, self._directory, self._timeout = comm, directory, timeout
        self._view = comm.view

    def run(self, arrays: Mapping[str, Any], replicated: Collection[str], axes: Mapping[str, int], meta: Any) -> None:
        rank = self._comm.rank
        mine, rows, problem = _described(arrays, replicated, axes, meta)
        told = self._gather([secrets.token_hex(8), rows], problem)
        names = [_part_name(told[0][0], number) for number in range(self._view.size)]
        saved = _joined([theirs for _, theirs in told], self._view)
        path = self._directory / names[rank]
        parts = {name: part for name in mine if (part := _own_part(mine[name], saved[name], rank)) is not None}
        nbytes, problem = self._write(path, parts)
        try:
            sizes = self._gather(nbytes, problem)
        except BaseException:  # nobody goes on: all members are told, or have lost one
            path.unlink(missing_ok=True)
            raise
        index = Index(saved, tuple(zip(names, sizes, strict=True)), meta)
        try:
            self._gather(None, self._place(index) if rank == 0 else None)
        except SaveFailed:
            self._withdraw(path)
            raise
        if rank == 0:
            self._sweep(names)

    def _gather(self, value: Any, problem: Exception | None) -> list[Any]:
        """Everybody's ``value``, by rank. Raises ``problem`` here and SaveFailed elsewhere; PeerLost where a member has gone."""
        told = self._comm.all_gather_object([value, problem and str(problem)], timeout=self._timeout)
        if isinstance(problem, OSError | MemoryError):
            raise SaveFailed(f"nothing was saved in {self._directory}, by this peer: {problem}") from problem
        if problem is not None:
            raise problem
        if self._comm.view.ids != self._view.ids:
            raise PeerLost(
                f"a member died while a checkpoint was saved; the one in {self._directory} is whole, if there is one: save again"
            )
        failed = [
            f"{member.name}: {why}"
            for member, (_, why) in zip(self._view.members, told, strict=True)
            if why is not None
        ]
        if failed:
            raise SaveFailed(
                f"nothing was saved in {self._directory}: {'; '.join(failed)}. What was there is as it was"
            )
        return [value for value, _ in told]

    def _write(self, path: Path, parts: Mapping[str, Array]) -> tuple[int, Exception | None]:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            return write_part(path, parts), None
        except (OSError, CollcommError, MemoryError) as error:
            return 0, error

    def _place(self, index: Index) -> Exception | None:
        """Put the index in place. Returns what was wrong."""
        try:
            sync_directory(self._directory)
            for name, nbytes in index.files:
                if (self._directory / name).stat().st_size != nbytes:
                    return SaveFailed(
                        f"{self._directory}: {name} is not what was written; do all peers see one directory?"
                    )
            write_index(self._directory, index)
        except FileNotFoundError as error:
            return SaveFailed(f"{error.filename} is not seen by rank 0; all peers must see one directory")
        except OSError as error:
            return error
        return None

    def _withdraw(self, path: Path) -> None:
        """Take the own file away, unless the index came to be in place nevertheless."""
        try:
            if path.name in dict(read_index(self._directory).files):
                return
        except CheckpointInvalid:
            pass
        path.unlink(missing_ok=True)

    def _sweep(self, names: Sequence[str]) -> None:
        """Files of older checkpoints, and of saves that were interrupted."""
        for path in self._directory.iterdir():
            if PART_NAME.fullmatch(path.name) and path.name not in names:
                try:
                    path.unlink(missing_ok=True)
                except OSError:
                    pass  # a later save tries again


def _described(
    arrays: Mapping[str, Any], replicated: Collection[str], axes: Mapping[str, int], meta: Any
) -> tuple[dict[str, Array], list[list[Any]], Exception | None]:
    """This peer's arrays, what it tells of them, and what is wrong with them."""
    try:
        library()
        json.dumps(meta)
        if unknown := sorted((set(replicated) | set(axes)) - set(arrays)):
            raise ValueError(f"there is no array {unknown[0]!r}")
        mine = {name: as_numpy(array, name) for name, array in arrays.items()}
        rows = [_row(name, array, name in replicated, axes.get(name, 0)) for name, array in sorted(mine.items())]
    except (CollcommError, TypeError, ValueError, ImportError) as error:
        return {}, [], error
    return mine, rows, None


def _row(name: str, array: Array, replicated: bool, axis: int) -> list[Any]:
    if not isinstance(name, str):
        raise ValueError(f"arrays have names, not {name!r}")
    code_of(name, array.dtype)
    if not array.shape and not replicated:
        raise ValueError(f"{name!r} has no axis to be sharded along; name it in replicated=")
    if array.shape and not 0 <= axis < array.ndim:
        raise ValueError(f"{name!r} has axes 0 to {array.ndim - 1}, not {axis!r}")
    return [name, array.dtype.name, list(array.shape), replicated, axis]


def _joined(told: Sequence[Sequence[Any]], view: View) -> dict[str, SavedArray]:
    """The whole arrays, out of what all peers tell of theirs. Raises CollectiveMismatch, at all peers alike."""
    for member, rows in zip(view.members, told, strict=True):
        theirs, ours = {_kind(row) for row in rows}, {_kind(row) for row in told[0]}
        if theirs != ours:
            odd = sorted(str(kind) for kind in theirs ^ ours)[0]
            raise CollectiveMismatch(
                f"{member.name} saves other arrays than {view[0].name}: {odd} is not at both (name, dtype, replicated, axis, "
                "lengths along the other axes)"
            )
    found = {}
    for number, (name, dtype, shape, replicated, axis) in enumerate(told[0]):
        lengths = [rows[number][2][axis] if shape else 1 for rows in told]
        if replicated:
            length, edges = lengths[0], [even_rows(lengths[0], len(told), rank) for rank in range(len(told))]
            if not shape:
                edges = [(0, 1)]
        else:
            ends = np.cumsum([0, *lengths]).tolist()
            length, edges = ends[-1], list(pairwise(ends))
        whole = (*shape[:axis], length, *shape[axis + 1 :]) if shape else ()
        parts = tuple(Part(file, start, stop) for file, (start, stop) in enumerate(edges) if stop > start)
        found[name] = SavedArray(dtype_of(dtype), whole, axis, replicated, parts)
    return found


def _kind(row: Sequence[Any]) -> tuple[Any, ...]:
    """What must be equal at all peers."""
    name, dtype, shape, replicated, axis = row
    fixed = shape if replicated else [*shape[:axis], *shape[axis + 1 :]]
    return name, dtype, tuple(fixed), bool(replicated), axis


def _own_part(array: Array, saved: SavedArray, rank: int) -> Array | None:
    """What this peer writes of ``array``."""
    part = next((part for part in saved.parts if part.file == rank), None)
    if part is None or not saved.replicated or not saved.shape:
        return array if part is not None else None
    return array[(slice(None),) * saved.axis + (slice(part.start, part.stop),)]


def _part_name(token: str, rank: int) -> str:
    name = f"part-{token}-{rank:05d}.safetensors"
    assert PART_NAME.fullmatch(name)
    return name
