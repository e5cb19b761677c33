"""Observations as control messages carry them, and back: rows of integers, times in microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .finding import Culprit, CulpritKind, Finding, Syndrome
from .observation import SAMPLES, FlowReport, Observation, OpenOperation, Sample

_MICRO = 1e6
MOST_MICROSECONDS = 10**13  # some months: what is longer is no span of a run
MOST_BYTES = 1 << 62
MOST_AWAITED = 64
MOST_OPEN = 64
MOST_FLOWS = 4096
MOST_GROUPS = 1024


def message_of(observation: Observation) -> dict[str, Any]:
    """What is too much is left out; what cannot be is brought to the nearest that can."""
    return {
        "t": "health",
        "epoch": observation.epoch,
        "covers": _micro(observation.covers),
        "computed": _micro(observation.computed),
        "operations": observation.operations,
        "ended": observation.operations_ended,
        "entered": dict(list(observation.entered.items())[:MOST_GROUPS]),
        "open": [
            [
                *one[:3],
                one.kind,
                _bytes(one.nbytes),
                _micro(one.age),
                _micro(one.silent),
                list(one.waiting_on[:MOST_AWAITED]),
            ]
            for one in observation.open[:MOST_OPEN]
        ],
        "samples": [
            [*one[:3], one.kind, _bytes(one.nbytes), _micro(one.took), _micro(one.waited)]
            for one in observation.samples[-SAMPLES:]
        ],
        "flows": [
            [
                one.target,
                _bytes(one.nbytes),
                _micro(one.busy),
                _micro(one.held),
                _micro(one.silent),
                max(0, min(one.lost, 1 << 31)),
            ]
            for one in observation.flows[:MOST_FLOWS]
        ],
    }


def observation_of(message: Mapping[str, Any], member: int, at: float) -> Observation:
    """From a map that was checked at the border; ``member`` has said it, and it came ``at`` that time."""
    return Observation(
        member,
        message["epoch"],
        at,
        message["covers"] / _MICRO,
        message["operations"],
        message["ended"],
        dict(message["entered"]),
        message["computed"] / _MICRO,
        tuple(
            OpenOperation(gid, epoch, seq, kind, nbytes, age / _MICRO, silent / _MICRO, tuple(waiting_on))
            for gid, epoch, seq, kind, nbytes, age, silent, waiting_on in message["open"]
        ),
        tuple(
            Sample(gid, epoch, seq, kind, nbytes, took / _MICRO, waited / _MICRO)
            for gid, epoch, seq, kind, nbytes, took, waited in message["samples"]
        ),
        tuple(
            FlowReport(target, nbytes, busy / _MICRO, held / _MICRO, silent / _MICRO, lost)
            for target, nbytes, busy, held, silent, lost in message["flows"]
        ),
    )


def corruption_of(message: Mapping[str, Any], at: float) -> Finding:
    """What a check of results has found; an accusation by a member, which was checked at the border."""
    culprit = Culprit(CulpritKind.RANK, tuple(message["members"]))
    since = message["gid"], message["seq"]
    return Finding(Syndrome.CORRUPTION, culprit, at, message["text"], message["confidence"] / 1000, since)


def _micro(seconds: float) -> int:
    return max(0, min(MOST_MICROSECONDS, round(seconds * _MICRO)))


def _bytes(count: int) -> int:
    return max(0, min(MOST_BYTES, count))
