"""Collectives whose results are checked for silent corruption: a communicator within a communicator.

    comm = collcomm.join(...).checked("sum")        # or "agree"
    mean = comm.all_reduce(gradient, op="avg")      # raises CorruptionDetected at all ranks, naming the sick one

Unchecked calls are those of the communicator itself, which knows nothing of this. How checks go: `inspection`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from .arrays import HostArray
from .blocks import elements, rows_of_block
from .checkrecords import Contribution
from .clock import SYSTEM
from .engine import request
from .health.checksums import way_of
from .health.corruption import Corruption
from .health.finding import Finding
from .inspection import Inspector, Tell

if TYPE_CHECKING:
    from .communicator import Communicator

Array = np.ndarray[Any, Any]
CHECKS = ("agree", "sum")
AS_SET = "as set"
MOST_EVERY = 1 << 20
KEPT_BYTES = 1 << 28  # results up to this size leave their room to the next operation in place


class CheckedCommunicator:
    """``comm`` with checks of all_reduce, all_gather and broadcast; everything else is ``comm``'s own. Made by
    `Communicator.checked`.

    ``check``: "agree": all members have the same bits (xxh3 of 128 bits; one small all_gather). Who differs from most is
    named; of two, both. "sum": besides, these are the right ones: reductions by checksums of what was given, within what
    rounding may do (`health.checksums`), or by a second run (min, max, prod, band, bor); what is moved, by hashes of what was
    given. The rank whose contribution changed, whose arithmetic is wrong, or whose copy differs is named; an error of
    arithmetic that does not come again names all whose result is wrong. None: not at all. Each call may say otherwise, as all
    members do.

    ``every``: one call in so many is checked, the same at all members: drawn by its number. ``on_corruption``: "raise"
    CorruptionDetected, at all members, before results are handed over in place, so that inputs are intact; or "report" and return
    the result. ``tell(corruption)`` is called in both cases, in the thread that runs the call; `found` has the last ones, and
    `findings` puts them into the words of a diagnosis.

    Arrays lie in host memory (`UnsupportedTransport` otherwise). ``timeout``: seconds, for each of the collectives that a
    checked call consists of.
    """

    def __init__(self, comm: Communicator, check: str, every: int, on_corruption: str, tell: Tell | None):
        if not isinstance(every, int) or not 1 <= every <= MOST_EVERY:
            raise ValueError(f"every must be a whole number from 1 to {MOST_EVERY}, not {every!r}")
        if on_corruption not in ("raise", "report"):
            raise ValueError(f"on_corruption must be 'raise' or 'report', not {on_corruption!r}")
        self._comm = comm
        self._check = _known(check)
        self._every = every
        self._inspector = Inspector(comm, on_corruption == "raise", tell)
        self._room = np.empty(0, np.uint8)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def __repr__(self) -> str:
        return f"<checked ({self._check}) {self._comm!r}>"

    @property
    def unchecked(self) -> Communicator:
        """The communicator underneath."""
        return self._comm

    @property
    def found(self) -> deque[Corruption]:
        """The last corruptions."""
        return self._inspector.found

    def findings(self) -> list[Finding]:
        """Of `found`; as of now, on this machine's monotonic clock."""
        return [finding for corruption in self.found for finding in corruption.findings(SYSTEM.monotonic())]

    def check_stats(self) -> dict[str, int]:
        """Calls that passed, were skipped since a member died in the check, were audited (values that are not finite, too),
        were wrong."""
        seen = self._inspector
        return {"passed": seen.passed, "skipped": seen.skipped, "audits": seen.audits, "wrong": len(seen.found)}

    # -- collectives ----------------------------------------------------------------------------------------------------

    def all_reduce(
        self,
        x: Any,
        op: str = "sum",
        out: Any = None,
        async_op: bool = False,
        timeout: float | None = None,
        check: str | None = AS_SET,
    ) -> Any:
        """As `Communicator.all_reduce`. Raises CorruptionDetected."""
        plain = partial(self._comm.all_reduce, x, op=op, out=out, timeout=timeout)
        kind = self._kind(check)
        if kind is None:
            return plain(async_op=async_op)
        given = HostArray(x, "x")
        given.require_elements("x")
        asked = request("all_reduce", given.dtype, given.flat.size, op=op)
        assert asked.ufunc is not None  # or it raises
        target = _target(out, given, given.flat.size)

        def checked(seq: int) -> Any:
            flat = _fetched(given)
            own = Contribution(flat, way_of(op, flat.dtype) if kind == "sum" else None) if kind == "sum" else None
            result = self._comm.all_reduce(flat, op=op, out=self._place(given, target, flat), timeout=timeout)
            if self._comm.view.size > 1 and own is not None:
                self._inspector.reduced(asked.call.text, seq, op, own, result, timeout)
            elif self._comm.view.size > 1:
                self._inspector.agree(asked.call.text, seq, result, timeout)
            return _handed_over(given, target, result, given.whole)

        return self._run(plain, checked, asked.call.text, async_op)

    def all_gather(
        self,
        x: Any,
        out: Any = None,
        counts: Sequence[int] | None = None,
        async_op: bool = False,
        timeout: float | None = None,
        check: str | None = AS_SET,
    ) -> Any:
        """As `Communicator.all_gather`. Raises CorruptionDetected."""
        plain = partial(self._comm.all_gather, x, out=out, counts=counts, timeout=timeout)
        kind = self._kind(check)
        if kind is None:
            return plain(async_op=async_op)
        given = HostArray(x, "x")
        sizes = elements(rows_of_block(given.shape, counts, self._comm.size, self._comm.rank), given.shape)
        asked = request("all_gather", given.dtype, counts=sizes)
        target = _target(out, given, sum(sizes))

        def checked(seq: int) -> Any:
            flat, base = _fetched(given), self._comm.view
            own = Contribution(flat, None) if kind == "sum" else None
            result = self._comm.all_gather(flat, counts=sizes, timeout=timeout)
            view = self._comm.view
            here = [size for member, size in zip(base.ids, sizes, strict=True) if view.rank_of(member) is not None]
            if view.size > 1 and own is not None:
                blocks = np.split(result, np.cumsum(here)[:-1])
                self._inspector.moved(asked.call.text, seq, own, blocks, range(view.size), timeout)
            elif view.size > 1:
                self._inspector.agree(asked.call.text, seq, result, timeout)
            return _handed_over(given, target, result, (-1, *given.shape[1:]))

        return self._run(plain, checked, asked.call.text, async_op)

    def broadcast(
        self,
        x: Any,
        root: int = 0,
        out: Any = None,
        async_op: bool = False,
        timeout: float | None = None,
        check: str | None = AS_SET,
    ) -> Any:
        """As `Communicator.broadcast`. Raises CorruptionDetected."""
        plain = partial(self._comm.broadcast, x, root=root, out=out, timeout=timeout)
        kind = self._kind(check)
        if kind is None:
            return plain(async_op=async_op)
        given = HostArray(x, "x")
        asked = request("broadcast", given.dtype, given.flat.size, root=int(root))
        target = _target(out, given, given.flat.size)

        def checked(seq: int) -> Any:
            flat, owner = _fetched(given), self._comm.view.ids[root]
            own = Contribution(flat if self._comm.rank == root else flat[:0], None) if kind == "sum" else None
            result = self._comm.broadcast(flat, root=root, out=self._place(given, target, flat), timeout=timeout)
            view = self._comm.view
            if view.size > 1 and own is not None:
                source = view.rank_of(owner)
                assert source is not None  # or the broadcast would have raised PeerLost
                self._inspector.moved(asked.call.text, seq, own, [result], [source], timeout)
            elif view.size > 1:
                self._inspector.agree(asked.call.text, seq, result, timeout)
            return _handed_over(given, target, result, given.whole)

        return self._run(plain, checked, asked.call.text, async_op)

    # -- common ---------------------------------------------------------------------------------------------------------

    def _run(self, plain: Callable[[], Any], checked: Callable[[int], Any], text: str, async_op: bool) -> Any:
        def work() -> Any:
            self._inspector.begin()
            seq = self._comm.called + 1
            return checked(seq) if _drawn(seq, self._every) else plain()

        return self._comm.compose(work, f"checked {text}", async_op)

    def _kind(self, check: str | None) -> str | None:
        return self._check if check == AS_SET else None if check is None else _known(check)

    def _place(self, given: HostArray, target: HostArray | None, flat: Array) -> Array | None:
        """Where the result of the engine goes: into the caller's memory if no input lies there."""
        if target is None:
            return None
        if target.original is None and not np.may_share_memory(given.span, target.span):
            return target.flat
        if self._room.size < flat.nbytes:
            self._room = np.empty(flat.nbytes, np.uint8)
        room = self._room
        if room.size > KEPT_BYTES:
            self._room = np.empty(0, np.uint8)
        return room[: flat.nbytes].view(flat.dtype)


def _known(check: str) -> str:
    if check not in CHECKS:
        raise ValueError(f"check must be one of {', '.join(map(repr, CHECKS))}, not {check!r}")
    return check


def _drawn(seq: int, every: int) -> bool:
    """By hash, so that a program whose calls come in a fixed order has all of them checked now and then."""
    return every == 1 or xxhash.xxh32_intdigest(seq.to_bytes(8, "little")) % every == 0


def _fetched(given: HostArray) -> Array:
    given.fetch()
    return given.flat


def _target(out: Any, given: HostArray, size: int) -> HostArray | None:
    if out is None:
        return None
    target = HostArray(out, "out")
    target.require_writable("out")
    if target.dtype != given.dtype:
        raise TypeError(f"out has dtype {target.dtype}, the data {given.dtype}")
    if target.flat.size != size:
        raise ValueError(f"out has {target.flat.size} elements, the result {size}")
    return target


def _handed_over(given: HostArray, target: HostArray | None, result: Array, shape: tuple[int, ...]) -> Any:
    """The caller's result."""
    if target is None:
        return given.like(result, shape)
    part = target.flat[: result.size]
    if not np.may_share_memory(part, result):
        part[:] = result
    target.put()
    return target.value if result.size == target.flat.size else target.like(part, shape)
