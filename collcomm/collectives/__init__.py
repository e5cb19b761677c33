"""Collective algorithms as data: `generate` gives what one rank does; the prover shows that it is right for all."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

from . import direct, doubling, hierarchical, oneshot, ring, star, tree, windows
from .hosts import Hosts
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


BY_MESSAGES = _generators(ring, doubling, direct, tree, star, hierarchical)
THROUGH_WINDOWS = _generators(windows, oneshot)
ALGORITHMS = {**BY_MESSAGES, **THROUGH_WINDOWS}


@lru_cache(maxsize=256)
def generate(kind: str, algorithm: str, n: int, rank: int, root: int = 0, **parameters: Any) -> Schedule:
    """The schedule of ``rank`` among ``n`` for one collective. Raises KeyError for an unknown combination."""
    return ALGORITHMS[kind, algorithm](n, rank, root, **parameters)


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
