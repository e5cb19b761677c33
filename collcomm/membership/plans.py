"""A traffic plan as messages carry it, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..types import LinkClass, LinkRow, PlannedChoice, TrafficPlan
from .linktable import Row
from .messages import MAX_STREAMS, Message

_NANO = 1e9
MAX_NANOSECONDS, MAX_RATE = 600 * 10**9, 10**13


def plan_message(plan: TrafficPlan) -> Message:
    return {
        "revision": plan.revision,
        "order": list(plan.order),
        "sites": list(plan.sites),
        "hub": plan.hub,
        "within": _class_row(plan.within),
        "across": _class_row(plan.across),
        "choices": [
            [choice.kind, choice.nbytes, choice.algorithm, choice.segments, min(10**15, round(choice.seconds * _NANO))]
            for choice in plan.choices
        ],
    }


def plan_of(message: Mapping[str, Any]) -> TrafficPlan:
    """From a map that was checked at the border."""
    return TrafficPlan(
        message["revision"],
        tuple(message["order"]),
        tuple(message["sites"]),
        message["hub"],
        _class_of(message["within"]),
        _class_of(message["across"]),
        tuple(
            PlannedChoice(kind, nbytes, algorithm, segments, nanoseconds / _NANO)
            for kind, nbytes, algorithm, segments, nanoseconds in message["choices"]
        ),
    )


def link_message_row(row: LinkRow) -> list[int]:
    """What cannot be is brought to the nearest that can."""
    return [row.source, row.target, _nanoseconds(row.latency), _rate(row.bandwidth), _streams(row.streams)]


def link_row_of(row: Row) -> LinkRow:
    source, target, latency, bandwidth, streams = row
    return LinkRow(source, target, latency / _NANO, float(bandwidth), streams)


def _class_row(links: LinkClass) -> list[int]:
    return [_nanoseconds(links.latency), _rate(links.bandwidth), _streams(links.streams)]


def _class_of(row: Sequence[int]) -> LinkClass:
    latency, bandwidth, streams = row
    return LinkClass(latency / _NANO, float(bandwidth), streams)


def _nanoseconds(seconds: float) -> int:
    return max(0, min(MAX_NANOSECONDS, round(seconds * _NANO)))


def _rate(bandwidth: float) -> int:
    return max(1, min(MAX_RATE, round(bandwidth)))


def _streams(count: int) -> int:
    return max(1, min(MAX_STREAMS, count))
