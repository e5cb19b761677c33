"""What of an observation can be true. Observations come from machines that nobody controls: what cannot be is left out, item by
item, and an observation without a member, an epoch or a time is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .observation import FlowReport, Observation, OpenOperation, Sample

MOST_SECONDS = 1e7  # some months
MOST_TIME = 1e12  # whatever a clock counts from
MOST_BYTES = 1 << 50
MOST_NUMBER = 1 << 62  # of ids, epochs, sequence numbers
MOST_ITEMS = 4096  # open operations, samples, flows, communicators; each
MOST_AWAITED = 4096
MOST_KIND = 64  # characters


def believable(observation: Observation) -> Observation | None:
    """``observation`` without what cannot be true; None when it cannot be of anybody, or of any time."""
    try:
        if not (_number(observation.member) and _number(observation.epoch) and 0.0 <= observation.at <= MOST_TIME):
            return None
        return Observation(
            member=observation.member,
            epoch=observation.epoch,
            at=observation.at,
            covers=observation.covers if _seconds(observation.covers) else 0.0,
            operations=observation.operations if _number(observation.operations) else 0,
            operations_ended=observation.operations_ended if _number(observation.operations_ended) else 0,
            entered={gid: seq for gid, seq in _some(observation.entered.items()) if _number(gid) and _number(seq)},
            computed=observation.computed if _seconds(observation.computed) else 0.0,
            open=_true(observation.open, _open),
            samples=_true(observation.samples, _sample),
            flows=tuple(flow for flow in _true(observation.flows, _flow) if flow.target != observation.member),
        )
    except (TypeError, ValueError, AttributeError):
        return None  # not even of the right types


def _some(items: Iterable[Any]) -> Iterable[Any]:
    return list(items)[:MOST_ITEMS]


def _true(items: tuple[Any, ...], test: Callable[[Any], bool]) -> tuple[Any, ...]:
    return tuple(item for item in items[:MOST_ITEMS] if _holds(test, item))


def _holds(test: Callable[[Any], bool], item: Any) -> bool:
    try:
        return test(item)
    except (TypeError, ValueError, AttributeError):
        return False


def _number(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value <= MOST_NUMBER


def _seconds(value: Any) -> bool:
    return 0.0 <= value <= MOST_SECONDS  # of what is not a number, neither holds


def _sample(sample: Sample) -> bool:
    gid, epoch, seq, kind, nbytes, took, waited = sample
    return (
        0.0 < took <= MOST_SECONDS
        and 0.0 <= waited <= took * 1.01 + 1e-3  # clocks are read at different moments
        and 0 <= gid <= MOST_NUMBER
        and 0 <= epoch <= MOST_NUMBER
        and 0 <= seq <= MOST_NUMBER
        and 0 <= nbytes <= MOST_BYTES
        and isinstance(kind, str)
        and len(kind) <= MOST_KIND
        and type(gid) is type(seq) is type(epoch) is type(nbytes) is int
    )


def _open(operation: OpenOperation) -> bool:
    gid, epoch, seq, kind, nbytes, age, silent, waiting_on = operation
    return (
        _number(gid)
        and _number(epoch)
        and _number(seq)
        and isinstance(kind, str)
        and len(kind) <= MOST_KIND
        and 0 <= nbytes <= MOST_BYTES
        and _seconds(age)
        and _seconds(silent)
        and len(waiting_on) <= MOST_AWAITED
        and all(_number(member) for member in waiting_on)
    )


def _flow(flow: FlowReport) -> bool:
    target, nbytes, busy, held, silent, lost = flow
    return (
        _number(target)
        and 0 <= nbytes <= MOST_BYTES
        and _seconds(busy)
        and _seconds(held)
        and held <= busy * 1.01 + 1e-3
        and _seconds(silent)
        and 0 <= lost <= MOST_NUMBER
    )
