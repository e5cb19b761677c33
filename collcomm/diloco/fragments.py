"""Which parameters travel together: fragments of strided layers, as Streaming DiLoCo sends them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from .flat import Array

LAYERS_A_FRAGMENT = 3
_NUMBER = re.compile(r"(?:^|\.)(\d+)(?:\.|$)")


def strided_fragments(
    params: Mapping[str, Array], fragments: int | None = None, layers: int = LAYERS_A_FRAGMENT
) -> list[list[str]]:
    """Names of parameters by fragment. Layer l, the first number in a name ("blocks.2.mix.weight"), goes to fragment l mod P, so
    that each fragment has layers from all depths (arXiv 2501.18512, "strided"). Parameters of no layer (embeddings, norms)
    go where there is least, the largest first.

    :param fragments: P; None: as many as give ``layers`` layers to each.
    :raises ValueError: no parameters, or more fragments than parameters.
    """
    if not params:
        raise ValueError("there are no parameters to put into fragments")
    layer_of = {name: int(found[1]) for name in params if (found := _NUMBER.search(name))}
    depth = len(set(layer_of.values()))
    count = max(1, -(-depth // layers)) if fragments is None else fragments
    if not 1 <= count <= len(params):
        raise ValueError(f"fragments must be from 1 to the {len(params)} parameters, not {fragments!r}")
    ranks = {layer: index for index, layer in enumerate(sorted(set(layer_of.values())))}
    made: list[list[str]] = [[] for _ in range(count)]
    for name in sorted(layer_of):
        made[ranks[layer_of[name]] % count].append(name)
    loose = [name for name in params if name not in layer_of]
    for name in sorted(loose, key=lambda name: (-params[name].size, name)):
        min(made, key=lambda some: (_elements(params, some), len(some))).append(name)
    return checked_fragments(params, made)


def checked_fragments(params: Mapping[str, Array], fragments: Sequence[Iterable[str]]) -> list[list[str]]:
    """The same, sorted. Raises ValueError unless each parameter is in exactly one fragment, and no fragment is empty."""
    made = [sorted(fragment) for fragment in fragments]
    named = [name for fragment in made for name in fragment]
    unknown = sorted(set(named) - set(params))
    if unknown:
        raise ValueError(f"fragments name {unknown[0]!r}, which is no parameter; parameters are {_some(params)}")
    missing = sorted(set(params) - set(named))
    if missing:
        raise ValueError(f"parameter {missing[0]!r} is in no fragment, and would never be averaged")
    if len(named) != len(set(named)):
        twice = next(name for name in named if named.count(name) > 1)
        raise ValueError(f"parameter {twice!r} is in more than one fragment")
    if not all(made):
        raise ValueError(f"fragment {made.index([])} has no parameters")
    return made


def _elements(params: Mapping[str, Array], names: Iterable[str]) -> int:
    return sum(params[name].size for name in names)


def _some(names: Iterable[str]) -> str:
    first = sorted(names)
    return ", ".join(first[:8]) + (", ..." if len(first) > 8 else "")
