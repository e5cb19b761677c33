"""What a peer tells of itself, about once a second: enough to see from all of these which of them, or which link, is sick.

Times are of the teller's own monotonic clock, or spans; nobody needs the others' clocks. Of many small operations a sample is
told, chosen by sequence number (`sampled`), so that all members tell of the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

SAMPLES = 64  # operations in one observation, at most
INTERVAL_SECONDS = 1.0  # between two observations


class Sample(NamedTuple):
    """One operation that this member has committed. ``took``: seconds from the call to the commit; since all leave the commit
    round at about the same time, who took the least came last. ``waited``: of these, seconds in which the peer had nothing
    to do but wait for others."""

    gid: int
    epoch: int
    seq: int
    kind: str
    nbytes: int
    took: float
    waited: float


class OpenOperation(NamedTuple):
    """The operation that a member is in. ``age``: seconds since it was entered; ``silent``: since a byte moved; ``waiting_on``:
    the members from which something is to come, or that are to take something."""

    gid: int
    epoch: int
    seq: int
    kind: str
    nbytes: int
    age: float
    silent: float
    waiting_on: tuple[int, ...]


class FlowReport(NamedTuple):
    """What this member has sent to ``target`` since its last observation: ``nbytes`` acknowledged, ``busy`` seconds in which
    some were on their way; of these, ``held`` seconds in which the receiver took nothing. ``silent``: seconds for which
    something has been unacknowledged now. ``lost``: packets sent again."""

    target: int
    nbytes: int
    busy: float
    held: float
    silent: float
    lost: int


@dataclass(frozen=True)
class Observation:
    """``entered``: by communicator, the last operation that was called, committed or not; ``operations``: how many this
    member has completed so far; ``covers``: seconds since its last observation; ``computed``: of these, outside
    operations."""

    member: int
    epoch: int
    at: float
    covers: float
    operations: int
    operations_ended: int = 0
    entered: dict[int, int] = field(default_factory=dict)
    computed: float = 0.0
    open: tuple[OpenOperation, ...] = ()
    samples: tuple[Sample, ...] = ()
    flows: tuple[FlowReport, ...] = ()


def stride_of(rate: float) -> int:
    """Every how many operations one is told of, at ``rate`` operations a second: a power of two, so that members whose rates
    differ still tell of common ones."""
    wanted = max(1, int(rate * INTERVAL_SECONDS / SAMPLES) + 1)
    return 1 << (wanted - 1).bit_length()


def sampled(seq: int, stride: int) -> bool:
    return seq % stride == 0
