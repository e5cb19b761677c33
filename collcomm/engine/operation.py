"""One collective call with its memory: bound to a view it runs; aborted, it leaves the caller's input as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import PeerLost
from ..transports.device import Device, Mark
from ..types import View
from .memory import HOST, Memory
from .original import Original
from .request import ROOTED_KINDS, Request
from .undo import UndoLog

Array = np.ndarray[Any, Any]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]
_BYTE = np.dtype(np.uint8)
RETAINED_BYTES = 1 << 28  # scratch up to this size is kept for the next operation


class Operation:
    """``source``: flat contiguous input or None; ``target``: flat contiguous result, None to have one made; either the
    same array (in place) or without common memory. ``place``: where both lie. ``device``: the same if it is a device, and
    ``ready`` what the device is to follow first. ``incoming`` and ``outgoing``: what they are copies in host memory of, if
    they are; the same object in place.

    ``base``: the view in which the user made the call; ranks in ``request`` are ranks of it. ``member``: this peer's id.
    """

    __slots__ = (
        "_late",
        "_made",
        "base",
        "buffers",
        "device",
        "in_place",
        "incoming",
        "member",
        "outgoing",
        "place",
        "ready",
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
        place: Memory = HOST,
    ):
        self.request = request
        self.base = base
        self.member = member
        self.source = source
        self.target = target
        self.ufunc = ufunc
        self.place = place
        self.device: Device | None = None
        self.incoming: Original | None = None
        self.outgoing: Original | None = None
        self.ready: tuple[Mark, ...] = ()
        self.in_place = source is target and source is not None
        self.seq = 0  # its number among the calls of the communicator, once it has one
        self.view = base  # the view in which it ran last
        self.buffers: dict[str, Bytes] = {}
        self.result: Array | None = None
        self.undo: UndoLog | None = None
        self._made: Array | None = None
        self._late = False  # whether the input is fetched by whoever runs the plan

    @property
    def unfetched(self) -> dict[str, Original]:
        """The buffer of a plan whose content is still to be fetched, where it is."""
        if self.incoming is None or not self._late:
            return {}
        return {"out" if self.in_place else "in": self.incoming}

    @property
    def early(self) -> Original | None:
        """What may be given parts of the result before the operation is committed: no input, and nothing yet to be divided."""
        outgoing = self.outgoing
        if outgoing is None or outgoing is self.incoming or self.request.op == "avg" or not outgoing.early:
            return None
        return outgoing

    @property
    def gives(self) -> bool:
        """Whether this peer is the one that broadcasts."""
        return self.request.kind == "broadcast" and self.base.ids[self.request.root] == self.member

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

    def bind(self, sizes: dict[str, int], scratch: Scratch, fetches: bool = False) -> None:
        """Lay out memory for a plan that needs ``sizes`` bytes of each buffer. ``fetches``: who runs it sees to ``incoming``."""
        self.buffers = buffers = {}
        self.result = None
        gives = self.gives
        for mark in self.ready:
            assert self.device is not None
            self.device.follow(mark)
        self.ready = ()
        reads = "in" in sizes or gives or (self.in_place and self.request.kind != "broadcast")
        self._late = fetches and reads and not gives and len(self.alive(self.view)) == self.base.size
        if self.incoming is not None and reads and not self._late:
            self.incoming.fetch_all()
        if self.outgoing is not None:
            self.outgoing.restart(self.alive(self.view))
        if self.in_place and self.source is not None and self.incoming is None and not gives:
            memory = self.source.view(np.uint8)
            self.undo = UndoLog(memory, scratch.take("undo", memory.size), self.place)
        if "in" in sizes and self.source is not None:
            buffers["in"] = self.surviving_blocks(self.alive(self.view)).view(np.uint8)
        if "out" in sizes:
            self.result = self._output(sizes["out"])
            buffers["out"] = self.result.view(np.uint8)
            if gives and not self.in_place and self.source is not None:
                self.place.copy(buffers["out"], self.source.view(np.uint8))
        if "tmp" in sizes:
            buffers["tmp"] = scratch.take("tmp", sizes["tmp"])

    def surviving_blocks(self, alive: Sequence[int]) -> Array:
        """The input, less the blocks that were for members who are gone."""
        assert self.source is not None
        counts = self.request.input_counts()
        if not counts or len(alive) == len(counts):
            return self.source
        edges = np.concatenate(([0], np.cumsum(counts)))
        return self.place.concatenate([self.source[edges[rank] : edges[rank + 1]] for rank in alive])

    def _output(self, nbytes: int) -> Array:
        count = nbytes // self.request.dtype.itemsize
        if self.target is not None:
            return self.target[:count]
        if self._made is None or self._made.size < count:
            self._made = self.place.empty(count, self.request.dtype)
        return self._made[:count]

    def keep_input(self, scratch: Scratch) -> None:
        """Keep a copy of the input of an operation in place, which is about to be overwritten by others' code."""
        assert self.source is not None
        memory = self.source.view(np.uint8)
        self.undo = UndoLog(memory, scratch.take("undo", memory.size))
        self.undo.save_all()

    def finish(self, result: Array, contributors: int) -> None:
        """Make the final result of what was reduced: an average is a sum that is divided."""
        if self.request.op == "avg":
            self.place.divide(result, contributors)

    def conclude(self, result: Array | None) -> None:
        """``result`` is final: when this returns, it is where the caller wants it."""
        if self.outgoing is not None and result is not None:
            self.outgoing.conclude(result.nbytes)
        elif self.device is not None:
            self.device.finish()

    def restore(self) -> None:
        """Undo what an aborted attempt wrote over the caller's input."""
        if self.undo is not None:
            self.undo.roll_back()
        elif self.in_place and self.incoming is not None:
            self.incoming.forget()
        if self.device is not None:
            self.device.finish()
        for staged in (self.incoming, self.outgoing):
            if staged is not None:
                staged.settle()


class Scratch:
    """Memory that operations of one communicator use one after the other."""

    def __init__(self, place: Memory = HOST) -> None:
        self._place = place
        self._kept: dict[str, Any] = {}

    def take(self, name: str, nbytes: int) -> Any:
        """Bytes of undefined content."""
        kept = self._kept.get(name)
        if kept is None or kept.size < nbytes:
            self._kept.pop(name, None)
            kept = self._place.empty(nbytes, _BYTE)
            if nbytes <= RETAINED_BYTES:
                self._kept[name] = kept
        return kept[:nbytes]
