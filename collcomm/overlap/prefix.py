"""Sequences cut among ranks: one all_gather of small states, which each rank combines by itself (LASP-2: Sun et al., 2025).

Linear attention over a sequence that ranks hold in order needs the sum of the states of all parts before one's own (causal), or
of all others. A chain of sends has as many steps as ranks; this has one, of constant size, which hides behind the part's own
attention:

    states = comm.all_gather(state[None], async_op=True)   # state: k^T v of this part; gathered along a first axis
    inner = causal(q, k, v)
    out = inner + q @ combine_before(states.result(), comm.rank)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np

Combine = Callable[[Any, Any], Any]


def combine_before(states: Sequence[Any], rank: int, combine: Combine = add) -> Any:
    """States 0 to ``rank`` - 1 combined, in that order; zeros in the shape of a state at rank 0. ``states``: what an all_gather
    along a first axis returns, one per rank; ``combine``: associative. All members get what one process would, bit by bit, if it
    combines in the same order."""
    _check(states, rank)
    return reduce(combine, states[:rank]) if rank else _zeros(states[0])


def combine_others(states: Sequence[Any], rank: int, combine: Combine = add) -> Any:
    """All states but that of ``rank``, in order of rank; zeros where there is no other."""
    _check(states, rank)
    others = [states[other] for other in range(len(states)) if other != rank]
    return reduce(combine, others) if others else _zeros(states[0])


def _zeros(state: Any) -> Any:
    return state.new_zeros(state.shape) if hasattr(state, "new_zeros") else np.zeros_like(state)


def _check(states: Sequence[Any], rank: int) -> None:
    if not 0 <= rank < len(states):
        raise ValueError(
            f"rank {rank} has no state among those of {len(states)} ranks: was the group another one then?"
        )
