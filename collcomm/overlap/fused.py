"""An all_reduce with an elementwise function in its middle: reduce-scatter, the function on the shard that each rank owns,
all-gather (TokenWeave: Gond et al., 2025).

A norm that follows an all_reduce is computed at every rank over all rows. Here each rank computes it for its own rows, while they
are in its cache, and the results are gathered in place of the sums: a P-th of the arithmetic, the same bytes.

Why it is all or nothing. The operations run in one view, which the first one finds for all (`oneview`). If all of them ran in it,
everybody has every shard, and the same bits; else a member has died, with it its shard, and all survivors, who see the same at
the same operation, begin again in the later view with their original input. Nothing is written over an input before the last
operation has committed. A function that raises is told in what its rank calls the gathering: there all learn of it.

Bits. Elements are added in the order of a reduce-scatter of the rows. Where the order does not matter, the result is the function
of what `all_reduce` gives, bit for bit: between two members, and for min, max, integers, and sums that are exact. Otherwise
the two differ as two algorithms for a sum do, by rounding. All members hold the same bits in any case.

Wire bytes. Of an array of n bytes among P members, each sends (P - 1) / P n bytes to reduce and as many to gather, as in an
all_reduce; where P does not divide the rows, a shard is up to one row more than a P-th. Beside the data there are the messages of
three commit rounds instead of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ..arrays import HostArray
from ..engine import AnyGroup, AnySession, request
from ..engine.operation import Scratch
from ..errors import CollcommError, CollectiveMismatch, EpilogueFailed, UnsupportedTransport
from ..hostviews import lies_on_device
from ..invocation import target_of
from ..oneview import OneView
from ..types import View

Array = np.ndarray[Any, Any]
Epilogue = Callable[[Any, int], Any]
MOST_SAID = 100  # characters of what a function that fails has said
_FAILED = "the epilogue at rank"


@dataclass
class _Call:
    """``target``: None where a new array is made."""

    given: HostArray
    target: HostArray | None
    op: str
    epilogue: Epilogue
    series: OneView


class FusedReduction:
    """Of one communicator; see `Communicator.fused_all_reduce`."""

    def __init__(self, session: AnySession, group: AnyGroup):
        self._session = session
        self._group = group
        self._room = Scratch()

    def all_reduce(self, x: Any, epilogue: Epilogue, op: str, out: Any, async_op: bool, seconds: float) -> Any:
        call = self._call(x, epilogue, op, out, seconds)
        return call.series.call(partial(self._work, call), partial(_conclude, call), async_op)

    def _call(self, x: Any, epilogue: Epilogue, op: str, out: Any, seconds: float) -> _Call:
        if lies_on_device(x) or lies_on_device(out):
            raise UnsupportedTransport("fused_all_reduce: x and out must lie in host memory; pass copies")
        if not callable(epilogue):
            raise TypeError(f"epilogue must be a function of a shard and its first row, not {epilogue!r}")
        given = HostArray(x, "x")
        if not given.shape:
            raise ValueError("x has no rows; give it an axis, along which ranks share it")
        asked = request("all_reduce", given.dtype, given.flat.size, op=op)
        assert asked.ufunc is not None  # or it raises
        target = target_of(asked, out, given, given.whole, True, None, None)
        assert target is None or isinstance(target, HostArray)
        words = f"{op}, {given.dtype.name}, {given.shape[0]} rows of {math.prod(given.shape[1:])} elements"
        deadline = self._session.clock.monotonic() + seconds
        series = OneView(self._session, self._group, f"fused_all_reduce({words})", deadline)
        return _Call(given, target, op, epilogue, series)

    def _work(self, call: _Call) -> Array:
        """The flat result."""
        given, target = call.given, call.target
        given.fetch()
        apart = target is not None and not np.may_share_memory(target.flat, given.flat)
        result: Array
        if target is None:
            result = np.empty_like(given.flat)
        else:
            result = target.flat if apart else self._room.take("result", given.flat.nbytes).view(given.dtype)
        _, view = call.series.open()
        while True:
            self._round(call, view, result)
            if not call.series.left(view):
                break
            view = call.series.seen
        if target is not None:
            if not apart:
                target.flat[:] = result
            target.put()
        return result

    def _round(self, call: _Call, view: View, result: Array) -> None:
        """One try in one view; nothing has come of it where the last operation ran in a later one."""
        given, series = call.given, call.series
        rank = view.rank_of(self._session.member)
        assert rank is not None
        edges = shards(given.shape[0], view.size)
        width = math.prod(given.shape[1:])
        counts = tuple((high - low) * width for low, high in pairwise(edges))
        asked = request("reduce_scatter", given.dtype, op=call.op, counts=counts, part_of=series.text)
        own = series.run(asked, view, given.flat, None)
        if series.left(view):
            return
        assert own is not None
        text, failure = series.text, None
        try:
            own = _applied(call, own, edges[rank], edges[rank + 1])
        except BaseException as error:
            failure = error
            text = f"{series.text}: {_told(rank, view[rank].name, error)}"
        asked = request("all_gather", given.dtype, counts=counts, part_of=text)
        try:
            series.run(asked, view, own, result)
        except CollcommError as error:
            if failure is None:
                raise _named(series.text, error) from None
        if failure is not None:
            raise failure


def shards(rows: int, size: int) -> list[int]:
    """Where the rows of each of ``size`` ranks begin, and the last ones end: shares differ by one row at most."""
    return [rows * rank // size for rank in range(size + 1)]


def _applied(call: _Call, shard: Array, low: int, high: int) -> Array:
    """What the function makes of rows ``low`` to ``high``, in one row."""
    if low == high:
        return shard
    shape = (high - low, *call.given.shape[1:])
    made = HostArray(call.epilogue(call.given.like(shard, shape), low), "what the epilogue returned")
    if made.shape != shape or made.dtype != call.given.dtype:
        raise ValueError(
            f"the epilogue returned {made.dtype} of shape {made.shape} for a shard, {call.given.dtype} of shape {shape}"
        )
    made.fetch()
    return made.flat


def _told(rank: int, name: str, error: BaseException) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split()).replace(";", ",")
    return f"{_FAILED} {rank} ({name}) raised {said[:MOST_SAID]}"


def _named(text: str, error: CollcommError) -> CollcommError:
    """``error``, or what it tells of a function that has failed at another rank."""
    _, failed, rest = str(error).partition(_FAILED)
    if not failed or not isinstance(error, CollectiveMismatch):
        return error
    return EpilogueFailed(f"{text}: {_FAILED}{rest.partition(';')[0]}; inputs are intact")


def _conclude(call: _Call, flat: Any, error: BaseException | None) -> Any:
    if error is not None:
        raise error
    return call.given.like(flat, call.given.whole) if call.target is None else call.target.value
