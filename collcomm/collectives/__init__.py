"""Collective algorithms as data: `generate` gives what one rank does; the prover shows that it is right for all."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

from . import bidirectional, direct, doubling, halving, hierarchical, oneshot, ring, star, tree, windows
from .hosts import Hosts
from .relabel import relabelled
from .schedule import Action, Schedule, Span, Step

Generator = Callable[..., Schedule]

KINDS = ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "reduce", "gather", "scatter")


def _generators(*modules: ModuleType) -> dict[tuple[str, str], Generator]:
    """By kind and the name of the module."""
    return {
        (kind, module.__name__.rpartition(".")[2]): getattr(module, kind)
        for module in modules
        for kind in KINDS
        if hasattr(module, kind)
    }


BY_MESSAGES = _generators(ring, bidirectional, doubling, halving, direct, tree, star, hierarchical)
THROUGH_WINDOWS = _generators(windows, oneshot)
ALGORITHMS = {**BY_MESSAGES, **THROUGH_WINDOWS}


@lru_cache(maxsize=256)
def generate(
    kind: str,
    algorithm: str,
    n: int,
    rank: int,
    root: int = 0,
    *,
    order: tuple[int, ...] | None = None,
    **parameters: Any,
) -> Schedule:
    """The schedule of ``rank`` among ``n`` for one collective.

    ``order``: the rank that stands at each position of the algorithm (round its ring, say), for algorithms by messages; None
    is the order of ranks. ``parameters``: those of the generator. Raises KeyError for an unknown combination, ValueError
    for an order that is no permutation of the ranks.
    """
    generator = ALGORITHMS[kind, algorithm]
    if order is None:
        return generator(n, rank, root, **parameters)
    return relabelled(generator, kind, n, rank, root, order, parameters)


__all__ = [
    "ALGORITHMS",
    "BY_MESSAGES",
    "THROUGH_WINDOWS",
    "Action",
    "Generator",
    "Hosts",
    "Schedule",
    "Span",
    "Step",
    "generate",
]
