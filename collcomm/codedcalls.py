"""From a user's all_reduce with a codec to the work of `coded`, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from .arrays import HostArray
from .codecs import Codec, ErrorFeedback, UnknownCodec, codec_of
from .coded import Job, reduce
from .codedchoice import AUTO, MOST_ALLOWED, agreed, propose
from .datatypes import Datatype
from .engine import AnyGroup, AnySession, request
from .engine.operation import Scratch
from .errors import UnsupportedTransport
from .hostviews import lies_on_device
from .invocation import target_of
from .oneview import OneView

AnyCodec = str | Codec | ErrorFeedback | Sequence[str | Codec | None]
OPS = {"sum": "sum", "avg": "avg", "mean": "avg"}
_SINGLE = np.dtype(np.float32)
_FLOATING = ("float16", "float32", "float64", "bfloat16")


@dataclass
class _Call:
    """One call. ``allowed``: codecs, of which members choose one (None: plain); ``unknown``: why it cannot be done here."""

    given: HostArray
    target: HostArray | None
    op: str
    series: OneView
    allowed: tuple[Codec | None, ...]
    feedback: ErrorFeedback | None
    unknown: UnknownCodec | None


class CodedCalls:
    """Of one communicator."""

    def __init__(self, session: AnySession, group: AnyGroup):
        self._session = session
        self._group = group
        self._scratch = Scratch()

    def pieces(self, nbytes: int) -> int:
        """Into how many pieces an array of ``nbytes`` goes in the present view, as this member has it."""
        return agreed(self._proposal((None,), nbytes // 4))[1]

    def _proposal(self, allowed: Sequence[Codec | None], count: int) -> int:
        view, choosing = self._group.view, self._group.choosing
        return propose(allowed, count, view.hosts, lambda kind, nbytes: choosing.choose(kind, nbytes, view).seconds)

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
        call = self._call(x, op, out, codec, datatype, seconds)
        return call.series.call(partial(self._work, call), partial(_conclude, call), async_op)

    def _call(self, x: Any, op: str, out: Any, codec: AnyCodec, datatype: Datatype | None, seconds: float) -> _Call:
        if lies_on_device(x) or lies_on_device(out):
            raise UnsupportedTransport("codec: x and out must lie in host memory; pass copies, or leave codec None")
        given = HostArray(x, "x") if datatype is None else HostArray.of_items(datatype, x, 1, "x")
        given.require_elements("x")
        if given.dtype.name not in _FLOATING:
            raise TypeError(
                f"codec {_named(codec)} is for floating arrays ({', '.join(_FLOATING)}), not {given.dtype}: leave codec None"
            )
        if op not in OPS:
            raise ValueError(f"codec {_named(codec)} goes with ops sum and mean (or avg), not {op!r}: leave codec None")
        asked = request("all_reduce", given.dtype, given.flat.size, op=OPS[op])
        target = target_of(asked, out, given, given.whole, True, None, datatype)
        assert target is None or isinstance(target, HostArray)
        feedback = codec if isinstance(codec, ErrorFeedback) else None
        allowed, specs, unknown = _known(codec)
        text = f"all_reduce({OPS[op]}, {given.dtype.name}, {given.flat.size} elements, codec {specs})"
        deadline = self._session.clock.monotonic() + seconds
        series = OneView(self._session, self._group, text, deadline)
        return _Call(given, target, OPS[op], series, allowed, feedback, unknown)

    def _work(self, call: _Call) -> Any:
        """The flat result."""
        series, given, target = call.series, call.given, call.target
        proposal, view = series.open(self._proposal(call.allowed, given.flat.size))
        if call.unknown is not None:
            raise call.unknown
        choice, pieces = agreed(proposal)
        codec = call.allowed[choice]
        given.fetch()
        flat = given.flat
        if codec is None:
            into = None if target is None else flat if target is given else target.flat
            asked = request("all_reduce", given.dtype, flat.size, op=call.op, part_of=series.text)
            plain = series.run(asked, view, flat, into)
            if target is not None:
                target.put()
            return plain
        with np.errstate(over="ignore"):
            numbers = flat if flat.dtype == _SINGLE else flat.astype(_SINGLE)
        if call.feedback is not None:
            numbers = call.feedback.corrected(numbers)
        result = np.empty(flat.size, given.dtype) if target is None else target.flat
        single = result if result.dtype == _SINGLE else np.empty(flat.size, _SINGLE)
        if flat.size:
            early = not np.may_share_memory(single, given.flat)
            job = Job(numbers, single, early, call.op == "avg", codec, call.feedback)
            reduce(series, job, pieces, view, self._scratch)
        if single is not result:
            with np.errstate(over="ignore"):
                result[:] = single
        if target is not None:
            target.put()
        return result


def _conclude(call: _Call, flat: Any, error: BaseException | None) -> Any:
    if error is not None:
        raise error
    return call.given.like(flat, call.given.whole) if call.target is None else call.target.value


def _known(codec: AnyCodec) -> tuple[tuple[Codec | None, ...], str, UnknownCodec | None]:
    """The codecs that members may take, what all must have in common of them, in words, and why that cannot be done here."""
    if isinstance(codec, ErrorFeedback):
        return (codec.codec,), codec.codec.spec, None
    several = isinstance(codec, tuple | list)
    named: Sequence[Any] = codec if several else AUTO if codec == "auto" else (codec,)  # type: ignore[assignment]
    if not 1 <= len(named) <= MOST_ALLOWED:
        raise ValueError(f"codec: from 1 to {MOST_ALLOWED} may be allowed, not {len(named)}")
    found: list[Codec | None] = []
    specs, unknown = [], None
    for each in named:
        if each == "topk":
            raise ValueError(
                "codec 'topk' forgets what it leaves out: pass one ErrorFeedback('topk') for each array, at each call, or "
                "TopK(fraction) if that is meant"
            )
        try:
            found.append(None if each is None and (several or codec == "auto") else codec_of(each))
        except UnknownCodec as error:
            unknown = error
            specs.append(f"{str(each)[:64]!r}, which this member does not know")
            found.append(None)
        else:
            last = found[-1]
            specs.append("none" if last is None else last.spec)
    return tuple(found), " or ".join(specs), unknown


def _named(codec: AnyCodec) -> str:
    return repr(codec[:64]) if isinstance(codec, str) else repr(codec)
