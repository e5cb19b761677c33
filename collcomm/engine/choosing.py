"""Which algorithm a communicator's next collective goes by, and what its collectives have taken so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median_low
from types import MappingProxyType
from typing import Any

from ..planner.choice import Choice
from ..planner.strategy import Strategy
from ..types import View

KEPT = 32  # durations of one kind and size
MAX_KINDS = 256  # of kinds and sizes
Chooser = Callable[[str, int, View], Choice]


@dataclass(frozen=True)
class Explanation:
    """Why a collective goes as it goes, and what that costs; `Communicator.explain` makes it, `str` says it in words.

    ``revision``: of the measured plan, 0 without one. ``predicted``: seconds, as the planner has it. ``measured``: the median
    of the last ``count`` calls of this kind and size class here, None if there were none. ``order``: ranks as they stand in
    the algorithm; ``streams``: connections, by rank, of the links that there are.
    """

    kind: str
    nbytes: int
    algorithm: str
    parameters: dict[str, Any]
    predicted: float
    measured: float | None
    count: int
    revision: int
    order: tuple[int, ...]
    sites: tuple[int, ...]
    streams: dict[int, int] = field(default_factory=dict)

    def __str__(self) -> str:
        shown = {name: value for name, value in self.parameters.items() if name not in ("order", "hosts")}
        how = f" ({', '.join(f'{name} {value}' for name, value in shown.items())})" if shown else ""
        source = (
            f"plan {self.revision} of measured links" if self.revision else "no links measured, typical ones assumed"
        )
        took = "not called yet" if self.measured is None else f"took {_words(self.measured)} (median of {self.count})"
        lines = [
            f"{self.kind} of {self.nbytes} bytes: {self.algorithm}{how}; {source}",
            f"should take {_words(self.predicted)}; {took}",
            f"order {' '.join(map(str, self.order))}; sites {' '.join(map(str, self.sites))}",
        ]
        if self.streams:
            lines.append("streams: " + ", ".join(f"{count} to rank {rank}" for rank, count in self.streams.items()))
        return "\n".join(lines)


def _words(seconds: float) -> str:
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{seconds * 1e3:.3g} ms"
        if seconds >= 1e-3
        else f"{seconds * 1e6:.3g} us"
    )


class Choosing:
    """Of one communicator. A view brings its plan with it, so all members choose alike. ``beside``: the members of the groups
    that were made before this one from the same communicator."""

    def __init__(self) -> None:
        self.beside: tuple[tuple[int, ...], ...] = ()
        self._view: View | None = None
        self._strategy = Strategy(None, (), ())
        self._took: dict[tuple[str, int], deque[float]] = {}

    def strategy(self, view: View) -> Strategy:
        if self._view is not view:
            self._view, self._strategy = view, Strategy(view.plan, view.ids, view.hosts, self.beside)
        return self._strategy

    def choose(self, kind: str, nbytes: int, view: View) -> Choice:
        return self.strategy(view).choose(kind, nbytes)

    def took(self, kind: str, nbytes: int, seconds: float) -> None:
        key = kind, nbytes.bit_length()
        found = self._took.get(key)
        if found is None:
            if len(self._took) >= MAX_KINDS:
                return
            found = self._took[key] = deque(maxlen=KEPT)
        found.append(seconds)

    def measured(self, kind: str, nbytes: int) -> Sequence[float]:
        return list(self._took.get((kind, nbytes.bit_length()), ()))

    def explain(
        self, kind: str, nbytes: int, view: View, choice: Choice, streams: Mapping[int, int] = MappingProxyType({})
    ) -> Explanation:
        taken = self.measured(kind, nbytes)
        strategy = self.strategy(view)
        return Explanation(
            kind,
            nbytes,
            choice.algorithm,
            dict(choice.parameters),
            choice.seconds,
            median_low(taken) if taken else None,
            len(taken),
            0 if view.plan is None else view.plan.revision,
            tuple(choice.parameters.get("order", strategy.order)),
            strategy.sites,
            dict(streams),
        )
