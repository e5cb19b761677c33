"""Rows that ranks share."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from collcomm.overlap.fused import shards


@given(st.integers(0, 10_000), st.integers(1, 200))
def test_every_row_has_one_rank_and_shares_differ_by_one_at_most(rows: int, size: int) -> None:
    edges = shards(rows, size)
    shares = [high - low for low, high in pairwise(edges)]
    assert edges[0] == 0 and edges[-1] == rows and len(shares) == size
    assert min(shares) >= 0 and max(shares) - min(shares) <= 1
