"""Methods that average the whole model at the end of each round: local SGD, DiLoCo, and DiLoCo one round late, plain or eager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .flat import Array, FlatParameters
from .method import Await, Instruction, Launch, Method, checked_every
from .outer import NesterovSGD


class WholeModel(Method):
    """One vector of all parameters, and the *anchor*: the common parameters, the same bits at every member."""

    def __init__(self, params: Mapping[str, Array], every: int, buckets: int, settings: Sequence[object]):
        self.every = checked_every(every)
        self.parameters = FlatParameters(params)
        size, dtype = self.parameters.size, self.parameters.dtype
        super().__init__(params, [size] * buckets, dtype, [self.every, *settings])
        self._anchor: Array = np.empty(size, dtype)
        self.parameters.read(self._anchor)
        self.state["anchor"] = self._anchor

    @property
    def anchor(self) -> Array:
        """The common parameters as one vector, a read-only view."""
        view = self._anchor.view()
        view.flags.writeable = False
        return view

    def restore(self) -> None:
        self.parameters.write(self._anchor)


class _AtOnce(WholeModel):
    """Launch and wait at the end of each round."""

    def _due(self, step: int) -> list[Instruction]:
        return [] if step % self.every else [Launch(0), Await(0)]


class LocalSGD(_AtOnce):
    """Local SGD (arXiv 1805.09767): every ``every`` inner steps the parameters become their average over the members. What is
    sent is the parameters themselves, which a lossy codec would round; the other methods send moves."""

    def __init__(self, params: Mapping[str, Array], every: int = 48):
        super().__init__(params, every, 1, [])

    def _fill(self, slot: int, bucket: Array, members: int) -> None:
        self.parameters.read(bucket)

    def _apply(self, slot: int, mean: Array) -> None:
        np.copyto(self._anchor, mean)
        self.restore()


class SynchronousDiLoCo(_AtOnce):
    """DiLoCo (arXiv 2311.08105): D = anchor - parameters is averaged, an outer Nesterov step moves the anchor by it.

    The arithmetic is that of `DiLoCo`, which leaves the loop to its user; this one is driven as all other methods are.

    :param every: H, inner steps of a round.
    :param lr: outer learning rate.
    :param momentum: outer Nesterov momentum.
    """

    def __init__(self, params: Mapping[str, Array], every: int = 500, lr: float = 0.7, momentum: float = 0.9):
        super().__init__(params, every, 1, [lr, momentum])
        self._outer = NesterovSGD(self.parameters.size, self.parameters.dtype, lr, momentum)
        self.state["momentum"] = self._outer.buffer

    def _fill(self, slot: int, bucket: Array, members: int) -> None:
        self.parameters.drift_from(self._anchor, bucket)

    def _apply(self, slot: int, mean: Array) -> None:
        self._outer.step(self._anchor, mean)
        self.restore()


class OneRoundLate(WholeModel):
    """At the end of each round its reduction is launched, and that of the round before is awaited: it had a whole round's time.

    Two buckets take turns. The first round's end has nothing to await.
    """

    def __init__(self, params: Mapping[str, Array], every: int, settings: Sequence[object]):
        super().__init__(params, every, 2, settings)

    def _due(self, step: int) -> list[Instruction]:
        if step % self.every:
            return []
        slot = step // self.every % 2
        late: list[Instruction] = [Await(1 - slot)] if 1 - slot in self.in_flight else []
        return [Launch(slot), *late]


class OneStepDelayedDiLoCo(OneRoundLate):
    """DiLoCo whose outer step goes by the average of the round before (the plain variant in arXiv 2502.12996).

    At the end of round t: launch D(t), the move from where this round began, then anchor <- OuterOpt(anchor, mean of
    D(t-1)), from where the next round begins. What a peer did in a round is felt one round later, so that the outer step
    bears less than DiLoCo's: with the default momentum it swings; 0 to 0.5 settles faster. `EagerDiLoCo` bears more.
    """

    def __init__(self, params: Mapping[str, Array], every: int = 500, lr: float = 0.7, momentum: float = 0.9):
        super().__init__(params, every, [lr, momentum])
        self._outer = NesterovSGD(self.parameters.size, self.parameters.dtype, lr, momentum)
        self.state["momentum"] = self._outer.buffer

    def _fill(self, slot: int, bucket: Array, members: int) -> None:
        self.parameters.drift_from(self._anchor, bucket)

    def _apply(self, slot: int, mean: Array) -> None:
        self._outer.step(self._anchor, mean)
        self.restore()


class EagerDiLoCo(OneRoundLate):
    """DiLoCo one round late that does not wait for a peer's own part (eager updates, arXiv 2502.12996).

    A peer's outer gradient of round t is D_m(t)/M + D(t-1) - D_m(t-1)/M: the others' part of the round before, its own of
    this one. The outer optimizer is linear, so this is kept as two: the anchor, moved by D(t-1) alone and therefore the same
    bits at all members, and a *lead*, moved by (D_m(t) - D_m(t-1))/M, which is the peer's own and begins at zero in a
    newcomer. The peer trains from anchor + lead.
    """

    def __init__(self, params: Mapping[str, Array], every: int = 500, lr: float = 0.7, momentum: float = 0.9):
        super().__init__(params, every, [lr, momentum])
        size, dtype = self.parameters.size, self.parameters.dtype
        self._outer = NesterovSGD(size, dtype, lr, momentum)
        self.state["momentum"] = self._outer.buffer
        self._lead: Array = np.zeros(size, dtype)
        self._lead_outer = NesterovSGD(size, dtype, lr, momentum)
        self._own: Array = np.zeros(size, dtype)  # D_m(t-1)/M
        self._start: Array = self._anchor.copy()  # anchor + lead, from where this round began

    def restore(self) -> None:
        for own in (self._lead, self._lead_outer.buffer, self._own):
            own[:] = 0
        np.copyto(self._start, self._anchor)
        super().restore()

    def _fill(self, slot: int, bucket: Array, members: int) -> None:
        self.parameters.drift_from(self._start, bucket)
        share = bucket / bucket.dtype.type(members)
        self._lead_outer.step(self._lead, share - self._own)
        self._own = share
        self._set_off()

    def _apply(self, slot: int, mean: Array) -> None:
        self._outer.step(self._anchor, mean)
        self._set_off()

    def _set_off(self) -> None:
        np.add(self._anchor, self._lead, out=self._start)
        self.parameters.write(self._start)
