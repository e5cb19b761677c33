"""Where experts are placed, where their tokens are computed, and what has to travel for that.

Everything here is a plan that each rank computes for itself from the same numbers; `collcomm.experts` carries plans out.
"""

from __future__ import annotations

from . import exflow, llep, sparse
from .exflow import FlowPlacement
from .llep import Dispatch, Share, dispatch
from .sparse import SparseExchange
from .tokens import TokenExchange, exchange

__all__ = [
    "Dispatch",
    "FlowPlacement",
    "Share",
    "SparseExchange",
    "TokenExchange",
    "dispatch",
    "exchange",
    "exflow",
    "llep",
    "sparse",
]
