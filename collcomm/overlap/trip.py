"""One exchange round a ring: who stands where, whose block is how large, and the operations that move blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from ..arrays import HostArray
from ..engine import AnyGroup, AnySession, Handle, Operation, request
from ..errors import CollcommError, CollectiveMismatch, PeerLost, UnsupportedTransport, ViewChanged
from ..hostviews import lies_on_device
from ..parts import HostParts
from .oneview import OneView

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
Parts = Mapping[int, Bytes]  # by rank
_BYTE = np.dtype(np.uint8)
_WORD = np.dtype(np.int64)


class Trip:
    """All members make it, with blocks of one dtype and shape, but for their rows, and the same ``way``. Raises
    CollectiveMismatch, and what operations raise. ``seconds``: for the opening, and for each step."""

    def __init__(self, session: AnySession, group: AnyGroup, block: Any, way: str, seconds: float):
        if lies_on_device(block):
            raise UnsupportedTransport("a block that goes round must lie in host memory; pass a copy")
        self.given = given = HostArray(block, "block")
        if not given.shape:
            raise ValueError("the block has no rows; give it an axis")
        given.fetch()
        words = f"{given.dtype.name}, rows of {' x '.join(map(str, given.shape[1:])) or 1} elements"
        self._session, self._group, self._seconds = session, group, seconds
        self._text = f"a ring {way} of blocks ({words})"
        series = OneView(session, group, self._text, session.clock.monotonic() + seconds)
        try:
            group.call(partial(self._open, series), self._text, False)
        finally:
            series.show()

    def _open(self, series: OneView) -> None:
        """All learn who has how many rows; the order is what they say, should some hold another plan than others."""
        view = series.open()
        while True:
            n, rank = view.size, view.rank_of(self._session.member)
            assert rank is not None
            place = self._group.choosing.strategy(view).order.index(rank)
            told = np.array([place, self.given.shape[0]], np.int64)
            asked = request("all_gather", _WORD, counts=(2,) * n, part_of=self._text)
            gathered = series.run(asked, view, told, None)
            if not series.left(view):
                break
            view = series.seen
        assert gathered is not None
        places, rows = gathered.reshape(n, 2).T.tolist()
        if min(rows) < 0:
            raise CollectiveMismatch(f"{self._text}: somebody has told of {min(rows)} rows")
        order = sorted(range(n), key=lambda other: (places[other], other))
        here = order.index(rank)
        self.view = view
        self.order = (*order[here:], *order[:here])
        self.rows: list[int] = rows

    @property
    def size(self) -> int:
        return len(self.order)

    @property
    def own(self) -> Bytes:
        flat: Bytes = self.given.flat.view(np.uint8)
        return flat

    def rank(self, ahead: int) -> int:
        """The one that stands so many places ahead of this one; behind it, if less than 0."""
        return self.order[ahead % self.size]

    def nbytes(self, owner: int) -> int:
        return self.rows[owner] * math.prod(self.given.shape[1:]) * self.given.dtype.itemsize

    def block(self, owner: int, data: Bytes) -> Any:
        """As the caller sees it."""
        if owner == self.rank(0):
            return self.given.value
        return self.given.like(data.view(self.given.dtype), (self.rows[owner], *self.given.shape[1:]))

    def move(self, step: str, gives: Parts, takes: Parts) -> Moving:
        """Begin to send to some ranks, and to receive from as many. All members call it alike."""
        return Moving(self._begin(step, gives, takes) if gives or takes else None)

    def _begin(self, step: str, gives: Parts, takes: Parts) -> Handle:
        given, target = (_Row(parts, self.size) for parts in (gives, takes))
        text = f"{step} of {self._text}"
        asked = request("all_to_all", _BYTE, sends=given.sizes, receives=target.sizes, part_of=text)
        operation = Operation(asked, self.view, self._session.member, given.flat, target.flat)
        if given.parts is not None:
            operation.incoming = given.parts.original
        if target.parts is not None:
            operation.outgoing = target.parts.original
        return self._group.submit(operation, self._seconds, partial(self._arrived, operation))

    def _arrived(self, operation: Operation, _: Any, error: BaseException | None) -> None:
        self._group.show(operation.view)
        if error is not None:
            raise error
        if operation.view.epoch != self.view.epoch:
            raise self._changed(operation)

    def _changed(self, operation: Operation) -> CollcommError:
        gone = [str(member) for member in self.view.members if operation.view.rank_of(member.id) is None]
        text = f"{operation.request.call.text}: "
        if not gone:
            return ViewChanged(f"{text}the membership changed meanwhile; begin again, with all who are here")
        return PeerLost(f"{text}{', '.join(gone)} is no longer in the group; look at comm.view, and begin again")


class Moving:
    """What is under way, if anything."""

    def __init__(self, handle: Handle | None):
        self._handle = handle

    def settle(self) -> None:
        """Memory is the caller's again when this returns: no longer than the step's time."""
        if self._handle is not None:
            self._handle.wait()

    def result(self) -> None:
        """Raises what the operation raises, and PeerLost where it ran without some of the ring."""
        if self._handle is not None:
            self._handle.result()


class _Row:
    """Arrays for some ranks as the engine has them: a single one where it lies, several behind each other. ``sizes``: by rank."""

    def __init__(self, parts: Parts, size: int):
        self.parts = HostParts([parts.get(rank) for rank in range(size)], "blocks", size) if len(parts) > 1 else None
        self.sizes = tuple(parts[rank].nbytes if rank in parts else 0 for rank in range(size))
        self.flat: Bytes = next(iter(parts.values())) if self.parts is None else self.parts.flat
