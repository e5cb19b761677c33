"""DiLoCo (arXiv 2311.08105) over a group whose members come and go.

Every peer trains on its own for some steps, then all of them average how far they have moved from the common *anchor*
and an outer optimizer moves the anchor by that. One loop serves founders and newcomers alike:

    comm = collcomm.join("host:48148", min_size=4)
    diloco = DiLoCo(comm, {name: p.detach().numpy() for name, p in model.named_parameters()})
    while True:
        diloco.sync()                    # a newcomer gets anchor, momentum and round here; for the others it is a check
        if diloco.rounds == total:
            break
        ...                              # inner steps on the parameters
        diloco.round()                   # average, outer step, parameters = new anchor
        comm.step()                      # newcomers are admitted; join() returns in them, and they call sync(), too
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .flat import Array, FlatParameters
from .outer import NesterovSGD

MOST_WEIGHT = 1 << 24


class Group(Protocol):
    """What DiLoCo needs of a `collcomm.Communicator`."""

    @property
    def size(self) -> int: ...

    def all_reduce(self, x: Any, op: str = "sum", out: Any = None) -> Any: ...

    def sync(self, state: Mapping[str, Any], revision: int | None) -> Any: ...

    def stats(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class RoundReport:
    """One finished round, as this peer saw it.

    ``number`` counts from 1; ``peers`` contributed; ``reduce_seconds`` is the all_reduce with the wait for slower
    peers, ``outer_seconds`` the rest; ``bytes_sent`` includes headers; ``retries`` counts runs that a dying peer
    spoiled, and ``seconds_lost`` the time from noticing that to the result.
    """

    number: int
    peers: int
    reduce_seconds: float
    outer_seconds: float
    bytes_sent: int
    retries: int
    seconds_lost: float


class DiLoCo:
    """The outer half of DiLoCo: holds anchor, momentum and round counter, which are the same bits at every member.

    Memory beyond the parameters: three vectors of their size (anchor, momentum, and the bucket that is reduced).

    A peer that dies in a round is dropped by the library, which averages over the survivors. If `round` raises (a
    time-out, ``on_failure="raise"``), anchor, momentum and parameters are as before, and it may be called again.

    :param comm: the communicator; only this object may sync it.
    :param params: name -> writable numpy array of a real floating dtype; they are read and written where they are.
    :param lr: outer learning rate.
    :param momentum: outer Nesterov momentum.
    :param extra: more arrays that newcomers get from the group in `sync`, written in place.
    :param weighted: average by the steps that peers took, which they give to `round`; all peers must choose alike. DiLoCo's
        is the plain average: each peer's move counts the same, however many steps led to it (`uneven`). By steps, a slow
        peer's short move has as little say as it has data behind it.
    """

    def __init__(
        self,
        comm: Group,
        params: Mapping[str, Array],
        lr: float = 0.7,
        momentum: float = 0.9,
        extra: Mapping[str, Array] | None = None,
        weighted: bool = False,
    ):
        self._comm = comm
        self._parameters = FlatParameters(params)
        self._outer = NesterovSGD(self._parameters.size, self._parameters.dtype, lr, momentum)
        self._anchor: Array = np.empty(self._parameters.size, self._parameters.dtype)
        self._weighted = weighted
        self._bucket: Array = np.empty(
            self._parameters.size + weighted, self._parameters.dtype
        )  # the last: sum of steps
        self._round = np.zeros(1, np.int64)
        self._layout = np.array([self._parameters.fingerprint], np.int64)
        self._parameters.read(self._anchor)
        self._state: dict[str, Array] = {
            "anchor": self._anchor,
            "momentum": self._outer.buffer,
            "round": self._round,
            "layout": self._layout,
        }
        for name, array in (extra or {}).items():
            if name in self._state:
                raise ValueError(f"the name {name!r} is taken by DiLoCo's own state")
            self._state[name] = array

    @property
    def rounds(self) -> int:
        """Rounds that the group has finished; a newcomer has the group's count after `sync`."""
        return int(self._round[0])

    @property
    def anchor(self) -> Array:
        """The common parameters as one vector, a read-only view."""
        view = self._anchor.view()
        view.flags.writeable = False
        return view

    def sync(self) -> Any:
        """Agree on the state: call it at the top of every round, at all members, a newcomer right after ``join()``.

        The parameters become the anchor: what inner steps did since the last round is dropped. With equal state it
        costs one hash of it and one small exchange. Returns the report of ``comm.sync``.

        :raises ValueError: the group trains parameters of other names, shapes or dtypes than this peer.
        :raises StateDiverged: no majority holds the same content.
        """
        report = self._comm.sync(self._state, revision=self.rounds)
        if self._layout[0] != self._parameters.fingerprint:
            raise ValueError("the group trains a model with other names, shapes or dtypes than this peer's")
        self._parameters.write(self._anchor)
        return report

    def round(self, steps: int | None = None) -> RoundReport:
        """Average everybody's pseudo-gradient (anchor - parameters), take the outer step, write the result back.

        ``steps``: inner steps that led here; counts with ``weighted`` only.

        :raises ValueError: ``weighted``, and ``steps`` is not from 1 to 2^24 (which float32 holds exactly).
        """
        if self._weighted and not (steps is not None and 1 <= steps <= MOST_WEIGHT):
            raise ValueError(f"a weighted round needs this peer's steps, from 1 to {MOST_WEIGHT}, not {steps!r}")
        started, before = time.perf_counter(), self._comm.stats()
        gradient = self._bucket[: self._parameters.size]
        self._parameters.drift_from(self._anchor, gradient)
        if self._weighted:
            np.multiply(gradient, gradient.dtype.type(steps), out=gradient)
            self._bucket[-1] = steps
        reducing = time.perf_counter()
        self._comm.all_reduce(self._bucket, op="sum" if self._weighted else "avg", out=self._bucket)
        reduced, after = time.perf_counter(), self._comm.stats()
        if self._weighted:
            np.divide(gradient, self._bucket[-1], out=gradient)
        self._outer.step(self._anchor, gradient)
        self._parameters.write(self._anchor)
        self._round += 1
        reduce_seconds = reduced - reducing
        return RoundReport(
            number=self.rounds,
            peers=self._comm.size,
            reduce_seconds=reduce_seconds,
            outer_seconds=time.perf_counter() - started - reduce_seconds,
            bytes_sent=int(after["bytes_sent"] - before["bytes_sent"]),
            retries=int(after["retries"] - before["retries"]),
            seconds_lost=after["seconds_lost"] - before["seconds_lost"],
        )
