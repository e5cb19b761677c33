"""From a user's all_reduce with a codec to the work of `coded`, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .arrays import HostArray
from .codecs import Codec, ErrorFeedback, UnknownCodec, codec_of
from .coded import CodedReduction, Job
from .datatypes import Datatype
from .engine import AnyGroup, AnySession, request
from .hostviews import lies_on_device
from .invocation import target_of
from .types import View

AnyCodec = str | Codec | ErrorFeedback
OPS = {"sum": "sum", "avg": "avg", "mean": "avg"}
_SINGLE = np.dtype(np.float32)
_FLOATING = ("float16", "float32", "float64", "bfloat16")


@dataclass
class _Call:
    """One call: ``text`` is what all members must have in common; ``unknown``: why it cannot be done here."""

    given: HostArray
    target: HostArray | None
    op: str
    text: str
    codec: Codec | None
    feedback: ErrorFeedback | None
    unknown: UnknownCodec | None
    base: View
    deadline: float
    seen: View = field(init=False)

    def __post_init__(self) -> None:
        self.seen = self.base


class CodedCalls:
    """Of one communicator."""

    def __init__(self, session: AnySession, group: AnyGroup):
        self._session = session
        self._group = group
        self._reduction = CodedReduction(group, session.member, session.clock)

    def pieces(self, nbytes: int) -> int:
        """Into how many pieces an array of ``nbytes`` goes in the present view."""
        return self._reduction.pieces(nbytes, self._group.view)

    def all_reduce(
        self,
        x: Any,
        op: str,
        out: Any,
        codec: AnyCodec,
        datatype: Datatype | None,
        async_op: bool,
        seconds: float,
    ) -> Any:
        """See `Communicator.all_reduce`."""
        if self._session.failure is not None:
            raise self._session.failure
        call = self._call(x, op, out, codec, datatype, seconds)
        conclude = partial(self._conclude, call)
        if async_op:
            return self._group.call(partial(self._work, call), call.text, True, conclude)
        try:
            found = self._group.call(partial(self._work, call), call.text, False)
        except BaseException:
            self._group.show(call.seen)
            raise
        return conclude(found, None)

    def _call(self, x: Any, op: str, out: Any, codec: AnyCodec, datatype: Datatype | None, seconds: float) -> _Call:
        if lies_on_device(x) or lies_on_device(out):
            raise TypeError("codec: x and out must lie in host memory; pass copies, or leave codec None")
        given = HostArray(x, "x") if datatype is None else HostArray.of_items(datatype, x, 1, "x")
        given.require_elements("x")
        if given.dtype.name not in _FLOATING:
            raise TypeError(
                f"codec {_named(codec)} is for floating arrays ({', '.join(_FLOATING)}), not {given.dtype}: leave codec None"
            )
        if op not in OPS:
            raise ValueError(f"codec {_named(codec)} goes with ops sum and mean (or avg), not {op!r}: leave codec None")
        feedback = codec if isinstance(codec, ErrorFeedback) else None
        if codec == "topk":
            raise ValueError(
                "codec 'topk' forgets what it leaves out: pass one ErrorFeedback('topk') for each array, at each call, or "
                "TopK(fraction) if that is meant"
            )
        asked = request("all_reduce", given.dtype, given.flat.size, op=OPS[op])
        target = target_of(asked, out, given, given.whole, True, None, datatype)
        assert target is None or isinstance(target, HostArray)
        found, unknown = None, None
        try:
            found = feedback.codec if feedback is not None else codec_of(codec)  # type: ignore[arg-type]
        except UnknownCodec as error:
            unknown = error
        spec = f"{str(codec)[:64]!r}, which this member does not know" if found is None else found.spec
        text = f"all_reduce({OPS[op]}, {given.dtype.name}, {given.flat.size} elements, codec {spec})"
        deadline = self._session.clock.monotonic() + seconds
        return _Call(given, target, OPS[op], text, found, feedback, unknown, self._group.view, deadline)

    def _work(self, call: _Call) -> Any:
        """The flat result."""
        try:
            return self._reduced(call)
        finally:
            call.seen = self._reduction.seen

    def _reduced(self, call: _Call) -> Any:
        reduction, given, target = self._reduction, call.given, call.target
        view = reduction.open(call.text, call.base, call.deadline)
        if call.codec is None:
            assert call.unknown is not None
            raise call.unknown
        given.fetch()
        flat = given.flat
        with np.errstate(over="ignore"):
            numbers = flat if flat.dtype == _SINGLE else flat.astype(_SINGLE)
        if call.feedback is not None:
            numbers = call.feedback.corrected(numbers)
        result = np.empty(flat.size, given.dtype) if target is None else target.flat
        single = result if result.dtype == _SINGLE else np.empty(flat.size, _SINGLE)
        if flat.size:
            early = not np.may_share_memory(single, given.flat)
            job = Job(call.text, numbers, single, early, call.op == "avg", call.codec, call.feedback)
            reduction.run(job, view, call.deadline)
        if single is not result:
            with np.errstate(over="ignore"):
                result[:] = single
        if target is not None:
            target.put()
        return result

    def _conclude(self, call: _Call, flat: Any, error: BaseException | None) -> Any:
        self._group.show(call.seen)
        if error is not None:
            raise error
        return call.given.like(flat, call.given.whole) if call.target is None else call.target.value


def _named(codec: AnyCodec) -> str:
    return repr(codec[:64]) if isinstance(codec, str) else repr(codec)
