"""One collective call with its memory: bound to a view it runs; aborted, it leaves the caller's input as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import PeerLost
from ..types import View
from .request import ROOTED_KINDS, Request
from .undo import UndoLog

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
RETAINED_BYTES = 1 << 28  # scratch up to this size is kept for the next operation


class Operation:
    """``source``: flat contiguous input or None; ``target``: flat contiguous result, None to have one made; either the
    same array (in place) or without common memory.

    ``base``: the view in which the user made the call; ranks in ``request`` are ranks of it. ``member``: this peer's id.
    """

    __slots__ = (
        "_made",
        "base",
        "buffers",
        "finish",
        "in_place",
        "member",
        "request",
        "result",
        "seq",
        "source",
        "target",
        "ufunc",
        "undo",
        "view",
    )

    def __init__(
        self,
        request: Request,
        base: View,
        member: int,
        source: Array | None,
        target: Array | None,
        ufunc: np.ufunc | None = None,
        finish: Callable[[Array, int], None] | None = None,
    ):
        self.request = request
        self.base = base
        self.member = member
        self.source = source
        self.target = target
        self.ufunc = ufunc
        self.finish = finish
        self.in_place = source is target and source is not None
        self.seq = 0  # its number among the calls of the communicator, once it has one
        self.view = base  # the view in which it ran last
        self.buffers: dict[str, Bytes] = {}
        self.result: Array | None = None
        self.undo: UndoLog | None = None
        self._made: Array | None = None

    def alive(self, view: View) -> tuple[int, ...]:
        """Ranks of the call's view that are members of ``view``."""
        if view is self.base:
            return tuple(range(view.size))
        return tuple(rank for rank, member in enumerate(self.base.ids) if view.rank_of(member) is not None)

    def lost(self, view: View) -> PeerLost | None:
        """Why the operation has no meaning in ``view``: its root is gone."""
        request = self.request
        if view is self.base or request.kind not in ROOTED_KINDS:
            return None
        root = self.base[request.root]
        if view.rank_of(root.id) is not None:
            return None
        return PeerLost(
            f"{request.call.text}: its root, {root}, is no longer in the group; inputs are intact, call again with "
            f"another root"
        )

    def bind(self, sizes: dict[str, int], scratch: Scratch) -> None:
        """Lay out memory for a plan that needs ``sizes`` bytes of each buffer."""
        self.buffers = buffers = {}
        self.result = None
        gives = self.request.kind == "broadcast" and self.base.ids[self.request.root] == self.member
        if self.in_place and self.source is not None and not gives:
            memory = self.source.view(np.uint8)
            self.undo = UndoLog(memory, scratch.take("undo", memory.size))
        if "in" in sizes and self.source is not None:
            buffers["in"] = self.surviving_blocks(self.alive(self.view)).view(np.uint8)
        if "out" in sizes:
            self.result = self._output(sizes["out"])
            buffers["out"] = self.result.view(np.uint8)
            if gives and not self.in_place and self.source is not None:
                self.result[:] = self.source
        if "tmp" in sizes:
            buffers["tmp"] = scratch.take("tmp", sizes["tmp"])

    def surviving_blocks(self, alive: Sequence[int]) -> Array:
        """The input, less the blocks that were for members who are gone."""
        assert self.source is not None
        counts = self.request.input_counts()
        if not counts or len(alive) == len(counts):
            return self.source
        edges = np.concatenate(([0], np.cumsum(counts)))
        return np.concatenate([self.source[edges[rank] : edges[rank + 1]] for rank in alive])

    def _output(self, nbytes: int) -> Array:
        count = nbytes // self.request.dtype.itemsize
        if self.target is not None:
            return self.target[:count]
        if self._made is None or self._made.size < count:
            self._made = np.empty(count, self.request.dtype)
        return self._made[:count]

    def keep_input(self, scratch: Scratch) -> None:
        """Keep a copy of the input of an operation in place, which is about to be overwritten by others' code."""
        assert self.source is not None
        memory = self.source.view(np.uint8)
        self.undo = UndoLog(memory, scratch.take("undo", memory.size))
        self.undo.save_all()

    def restore(self) -> None:
        """Undo what an aborted attempt wrote over the caller's input."""
        if self.undo is not None:
            self.undo.roll_back()


class Scratch:
    """Memory that operations of one communicator use one after the other."""

    def __init__(self) -> None:
        self._kept: dict[str, Bytes] = {}

    def take(self, name: str, nbytes: int) -> Bytes:
        kept = self._kept.get(name)
        if kept is None or kept.size < nbytes:
            self._kept.pop(name, None)
            kept = np.empty(nbytes, np.uint8)
            if nbytes <= RETAINED_BYTES:
                self._kept[name] = kept
        return kept[:nbytes]
