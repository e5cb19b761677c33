"""Local steps by speed, so that machines that differ arrive at the outer step together (FedCompass, arXiv 2309.14675).

    pace = UnevenSteps(comm)
    while True:
        diloco.sync()
        steps = pace.agree()             # one small all_gather; every peer knows everybody's share
        started = time.perf_counter()
        ...                              # that many inner steps
        pace.trained(steps, time.perf_counter() - started)
        diloco.round()                   # with weighted=True: diloco.round(steps)
        comm.step()

Each peer keeps the average of its own speed only. A newcomer therefore needs no history to agree with the others; it begins at
the median.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..planner.shares import LEAST_STEPS, MOMENTUM, MOST_STEPS, Speeds, local_steps
from ..types import View


class Group(Protocol):
    """What is needed of a `collcomm.Communicator`."""

    @property
    def view(self) -> View: ...

    @property
    def rank(self) -> int: ...

    def all_gather(self, x: Any) -> Any: ...


class UnevenSteps:
    """How many inner steps this peer takes in the next round, and what the others take.

    :param comm: the communicator, by which `agree` makes one all_gather.
    :param least: of steps; a peer more than most / least times slower than the fastest is waited for.
    :param most: steps of the fastest. All peers must give the same bounds.
    :param momentum: how much the average of speeds keeps of itself from round to round.
    :raises ValueError: bounds that are not 1 <= least <= most, a momentum that is not from 0 to less than 1.
    """

    def __init__(self, comm: Group, least: int = LEAST_STEPS, most: int = MOST_STEPS, momentum: float = MOMENTUM):
        local_steps({}, least, most)
        self._comm = comm
        self._least, self._most = least, most
        self._own = Speeds(momentum)
        self._shares: dict[int, int] = {}

    @property
    def shares(self) -> Mapping[int, int]:
        """Steps by member id, as agreed last."""
        return dict(self._shares)

    def trained(self, steps: int, seconds: float) -> None:
        """This peer took ``seconds`` for ``steps`` inner steps, without any waiting for others."""
        self._own.observe(self._comm.view[self._comm.rank].id, steps, seconds)

    def agree(self) -> int:
        """Exchange speeds; returns this peer's steps of the round. All members call it, at the same place of their loops."""
        me = self._comm.view[self._comm.rank].id
        told = self._comm.all_gather(np.array([[float(me), self._own.of(me)]], np.float64))
        speeds = {int(member): float(speed) for member, speed in told.tolist() if math.isfinite(member)}
        self._shares = local_steps(speeds, self._least, self._most)
        return self._shares[me]
