"""How a method's instructions become calls of a communicator, whichever face drives them.

A `Course` is a generator's worth of work for each inner step: it yields what must be waited for (`Wait`, `Meet`, `Agree`) and is
sent the result, or thrown the error. `loops` answers with blocking calls, or by awaiting.

Each launch is followed by a few words, in a reduction of their own: whether somebody waits to be admitted, and at which step the
peers are. So a run over slow links learns of newcomers without a round trip that anybody waits for. When the words of an
applied bucket say so, all members, at that same step, let what is in flight arrive, admit the newcomer, and synchronise; it lands
on their bits, with the averages that are still to be applied.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import CollcommError, PeerLost
from .flat import Array
from .method import Await, Instruction, Launch, Method, checked_every

MOST_RUNS = 16  # of one reduction that fails, with on_failure="raise": each time a peer is lost


class Face(Protocol):
    """What is needed of a `collcomm.Communicator`; its calls with ``async_op`` return handles."""

    @property
    def pending(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(
        self,
        x: Any,
        op: str = "sum",
        out: Any = None,
        codec: Any = None,
        *,
        async_op: bool = False,
        timeout: float | None = None,
    ) -> Any: ...


@dataclass(frozen=True)
class Wait:
    """For a handle's result."""

    handle: Any


@dataclass(frozen=True)
class Meet:
    """``comm.step()``: whoever waits is admitted."""


@dataclass(frozen=True)
class Agree:
    """``comm.sync(state, revision)``."""

    state: Mapping[str, Any]
    revision: int


Request = Wait | Meet | Agree
Work = Generator[Request, Any, None]


@dataclass
class _Flight:
    """A bucket under way, and its words. ``arrived``: it holds the average, and its words were heeded."""

    payload: Any = None
    words: Any = None
    arrived: bool = False


class Course:
    """One peer's part in a run of ``method``; see `Training` for the arguments."""

    def __init__(
        self,
        face: Face,
        method: Method,
        codec: Any,
        extra: Mapping[str, Array] | None,
        timeout: float | None,
        meet_every: int | None = None,
    ):
        self.method = method
        self.repeated = 0
        self.admissions = 0
        self.launched_bytes = 0
        self._face = face
        self._codec = codec
        self._timeout = timeout
        self._meet_every = None if meet_every is None else checked_every(meet_every, "meet_every")
        self._flights: dict[int, _Flight] = {}
        self._somebody_waits = False
        taken = sorted(set(extra or {}) & set(method.state))
        if taken:
            raise ValueError(f"the name {taken[0]!r} is taken by the method's own state")
        self._state = {**method.state, **(extra or {})}

    @property
    def steps(self) -> int:
        return self.method.steps

    def sync(self) -> Work:
        """Agree with the group; a newcomer calls it before all else, and so do the founders."""
        report = yield Agree(self._state, self.method.steps)
        self.method.check()
        if report.changed:
            self.method.restore()
        for slot in self.method.in_flight:  # a newcomer was given their averages
            self._flights.setdefault(slot, _Flight(arrived=True))

    def step(self) -> Work:
        """An inner step has been taken."""
        yield from self._carry_out(self.method.advance())

    def finish(self) -> Work:
        """Apply all that is in flight; afterwards parameters are the common ones."""
        yield from self._carry_out([Await(slot) for slot in self.method.in_flight], admit=False)
        self.method.restore()

    def _carry_out(self, instructions: list[Instruction], admit: bool = True) -> Work:
        for instruction in instructions:
            if isinstance(instruction, Launch):
                self._launch(instruction.slot)
            else:
                yield from self._arrive(instruction.slot)
                self.method.apply(instruction.slot)
                del self._flights[instruction.slot]
        meets = self._meet_every is not None and self.steps % self._meet_every == 0
        if admit and (self._somebody_waits or meets):
            yield from self._admit()

    def _launch(self, slot: int) -> None:
        self.launched_bytes += self.method.fill(slot, self._face.size).nbytes
        self._flights[slot] = _Flight(self._average(slot), self._words())

    def _average(self, slot: int) -> Any:
        bucket = self.method.bucket(slot)
        return self._face.all_reduce(bucket, "avg", bucket, self._codec, async_op=True, timeout=self._timeout)

    def _words(self) -> Any:
        step = self.method.steps
        told = np.array([self._face.pending > 0, step, -step], np.int64)
        return self._face.all_reduce(told, "max", told, async_op=True, timeout=self._timeout)

    def _arrive(self, slot: int) -> Work:
        """Wait until bucket ``slot`` holds the average, and heed its words.

        Of a death meanwhile every survivor hears the same: it was averaged over those who are left, or, with
        ``on_failure="raise"``, it failed at all of them with its input intact, and all of them launch it again.
        """
        flight = self._flights[slot]
        if flight.arrived:
            return
        yield from self._result(flight.payload, lambda: self._average(slot))
        told = yield from self._result(flight.words, self._words)
        flight.arrived = True
        waits, latest, earliest = int(told[0]), int(told[1]), -int(told[2])
        if latest != earliest:
            raise OutOfStep(
                f"peers launched the same bucket after inner steps {earliest} to {latest}; all must take as many"
            )
        self._somebody_waits |= bool(waits)

    def _result(self, handle: Any, again: Callable[[], Any]) -> Generator[Request, Any, Any]:
        for _ in range(MOST_RUNS):
            try:
                return (yield Wait(handle))
            except PeerLost:
                self.repeated += 1
                handle = again()
        return (yield Wait(handle))

    def _admit(self) -> Work:
        for slot in self.method.in_flight:
            yield from self._arrive(slot)
        self._somebody_waits = False
        self.admissions += 1
        yield Meet()
        yield from self.sync()


class OutOfStep(CollcommError):
    """Members of a run have taken different numbers of inner steps."""
