"""Objects among peers, as bytes: msgpack, or pickle where the caller asks for it."""

from __future__ import annotations

import pickle as pickling
from itertools import pairwise
from typing import Any, Protocol

import msgpack
import numpy as np

from .types import View

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class Group(Protocol):
    """What is needed of a communicator."""

    @property
    def view(self) -> View: ...

    @property
    def rank(self) -> int: ...

    def all_gather(self, x: Any, *, counts: Any = None, timeout: float | None = None) -> Any: ...

    def broadcast(self, x: Any, *, root: int = 0, timeout: float | None = None) -> Any: ...


def encode(value: Any, pickle: bool) -> Bytes:
    """``value`` as an array of bytes. Raises TypeError for what msgpack cannot hold."""
    if pickle:
        return np.frombuffer(pickling.dumps(value), np.uint8)
    try:
        return np.frombuffer(msgpack.packb(value), np.uint8)
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(f"{error}; msgpack cannot hold this object, pickle=True can") from None


def decode(data: Bytes, pickle: bool) -> Any:
    if pickle:
        return pickling.loads(data.tobytes())
    return msgpack.unpackb(data.tobytes(), strict_map_key=False)


def gather_objects(comm: Group, value: Any, pickle: bool, timeout: float | None) -> list[Any]:
    """Lengths first, then the bytes of all. Who dies in between is left out."""
    data = encode(value, pickle)
    while True:
        view = comm.view
        lengths = comm.all_gather(np.array([data.size], np.int64), timeout=timeout)
        if comm.view is not view:
            continue
        joined = comm.all_gather(data, counts=lengths, timeout=timeout)
        counts = [n for member, n in zip(view.ids, lengths, strict=True) if comm.view.rank_of(member) is not None]
        edges = np.concatenate(([0], np.cumsum(counts)))
        return [decode(joined[a:b], pickle) for a, b in pairwise(edges)]


def spread_object(comm: Group, value: Any, root: int, pickle: bool, timeout: float | None) -> Any:
    """The length first, then the bytes."""
    owner = comm.view.ids[root]
    mine = comm.rank == root
    data = encode(value, pickle) if mine else np.empty(0, np.uint8)
    length = comm.broadcast(np.array([data.size], np.int64), root=root, timeout=timeout)
    new_root = comm.view.rank_of(owner)
    if not mine:
        data = np.empty(int(length[0]), np.uint8)
    return decode(comm.broadcast(data, root=-1 if new_root is None else new_root, timeout=timeout), pickle)
