"""Streaming DiLoCo (arXiv 2501.18512): the model travels in fragments, one after the other, while training goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .flat import Array, FlatParameters
from .fragments import checked_fragments, strided_fragments
from .method import Await, Instruction, Launch, Method, checked_every
from .outer import NesterovSGD


class StreamingDiLoCo(Method):
    """Fragment p is sent after step t when (t - t_p) mod H == 0, and applied ``tau`` steps later:

        D_p = anchor_p - parameters_p, averaged;   anchor_p <- OuterOpt(anchor_p, D_p)
        parameters_p <- alpha parameters_p + (1 - alpha) anchor_p

    The moments t_p are spread evenly over H, so that the wire carries little all the time in place of much at once. The bits
    on the wire are a choice of whoever drives it (`Training`, ``codec=``): D_p of each member is encoded before it is summed.

    :param every: H; the paper uses 100, or 30.
    :param tau: inner steps that a fragment may take to come; the paper uses 1, and advises 5 at most. 0 waits for it.
    :param alpha: how much of the steps that a peer took meanwhile it keeps: 0 forgets them, 1 never takes over the common
        parameters. 0.5 weighs both the same.
    :param fragments: how many; or their parameters' names; None: strided, of three layers each.
    :param lr: outer learning rate.
    :param momentum: outer Nesterov momentum.
    :raises ValueError: ``tau`` that is not shorter than H, unknown or missing names, more fragments than steps in H.
    """

    def __init__(
        self,
        params: Mapping[str, Array],
        every: int = 100,
        tau: int = 1,
        alpha: float = 0.5,
        fragments: int | Sequence[Iterable[str]] | None = None,
        lr: float = 0.4,
        momentum: float = 0.9,
    ):
        self.every = checked_every(every)
        if not isinstance(tau, int | np.integer) or not 0 <= tau < self.every:
            raise ValueError(
                f"tau is {tau!r}, but a fragment must be applied before it is sent again: give 0 to {self.every - 1} steps, or a "
                f"larger H than {self.every}; for a delay of a whole round there is OneStepDelayedDiLoCo"
            )
        if not 0 <= alpha < 1:
            raise ValueError(
                f"alpha must be from 0 to less than 1, not {alpha!r}: with 1 the average would never be used"
            )
        self.tau = int(tau)
        named = (
            strided_fragments(params, fragments)
            if fragments is None or isinstance(fragments, int)
            else checked_fragments(params, fragments)
        )
        if len(named) > self.every:
            raise ValueError(
                f"{len(named)} fragments cannot be sent within {self.every} steps: give fewer, or a larger H"
            )
        self.fragments = named
        self._parts = [FlatParameters({name: params[name] for name in names}) for names in named]
        dtype = FlatParameters(params).dtype
        super().__init__(
            params, [part.size for part in self._parts], dtype, [self.every, self.tau, alpha, named, lr, momentum]
        )
        self._alpha = dtype.type(alpha)
        self._anchors: list[Array] = [np.empty(part.size, dtype) for part in self._parts]
        self._outers = [NesterovSGD(part.size, dtype, lr, momentum) for part in self._parts]
        for slot, part in enumerate(self._parts):
            part.read(self._anchors[slot])
            self.state |= {f"anchor.{slot}": self._anchors[slot], f"momentum.{slot}": self._outers[slot].buffer}

    def offset(self, slot: int) -> int:
        """t_p of fragment ``slot``: 1 to H."""
        return (slot + 1) * self.every // len(self._parts)

    @property
    def anchors(self) -> list[Array]:
        """The common parameters, a vector for each fragment; read-only views."""
        views = [anchor.view() for anchor in self._anchors]
        for view in views:
            view.flags.writeable = False
        return views

    def restore(self) -> None:
        for part, anchor in zip(self._parts, self._anchors, strict=True):
            part.write(anchor)

    def _due(self, step: int) -> list[Instruction]:
        slots = range(len(self._parts))
        arriving: list[Instruction] = [Await(slot) for slot in slots if self._due_at(slot) == step]
        leaving: list[Instruction] = [
            Launch(slot) for slot in slots if step >= self.offset(slot) and (step - self.offset(slot)) % self.every == 0
        ]
        at_once: list[Instruction] = [] if self.tau else [Await(launch.slot) for launch in leaving]
        return arriving + leaving + at_once

    def _due_at(self, slot: int) -> int:
        return int(self._launched[slot]) + self.tau if slot in self.in_flight else -1

    def _fill(self, slot: int, bucket: Array, members: int) -> None:
        self._parts[slot].drift_from(self._anchors[slot], bucket)

    def _apply(self, slot: int, mean: Array) -> None:
        part, anchor = self._parts[slot], self._anchors[slot]
        self._outers[slot].step(anchor, mean)
        if not self._alpha:
            part.write(anchor)
            return
        mixed = np.empty(part.size, anchor.dtype)
        part.read(mixed)
        np.subtract(mixed, anchor, out=mixed)
        np.multiply(mixed, self._alpha, out=mixed)
        np.add(mixed, anchor, out=mixed)
        part.write(mixed)
