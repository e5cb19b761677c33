"""Mixture-of-experts traffic over a communicator: tokens to their experts and back, weights to where they are needed.

The plans come from `collcomm.planner.experts`; every rank makes the same ones from the same counts.
"""

from __future__ import annotations

from .chunks import sparse_all_gather, sparse_reduce_scatter
from .plans import plan_dispatch
from .tokens import Arrived, exchange_tokens, return_tokens

__all__ = [
    "Arrived",
    "exchange_tokens",
    "plan_dispatch",
    "return_tokens",
    "sparse_all_gather",
    "sparse_reduce_scatter",
]
