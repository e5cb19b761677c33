"""Collective algorithms as data: `generate` gives what one rank does; the prover shows that it is right for all."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from . import direct, doubling, ring, star, tree
from .schedule import Action, Schedule, Span, Step

Generator = Callable[..., Schedule]

ALGORITHMS: dict[tuple[str, str], Generator] = {
    (kind, module.__name__.rpartition(".")[2]): getattr(module, kind)
    for module in (ring, doubling, direct, tree, star)
    for kind in (
        "all_reduce",
        "reduce_scatter",
        "all_gather",
        "all_to_all",
        "broadcast",
        "reduce",
        "gather",
        "scatter",
    )
    if hasattr(module, kind)
}


@lru_cache(maxsize=256)
def generate(kind: str, algorithm: str, n: int, rank: int, root: int = 0, **parameters: int) -> Schedule:
    """The schedule of ``rank`` among ``n`` for one collective. Raises KeyError for an unknown combination."""
    return ALGORITHMS[kind, algorithm](n, rank, root, **parameters)


__all__ = ["ALGORITHMS", "Action", "Generator", "Schedule", "Span", "Step", "generate"]
