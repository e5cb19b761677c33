"""Links with a known rate: the shaping holds, and a large all_reduce fills most of it."""

from __future__ import annotations

import pytest

from collcomm.bench.cases import bench_shaped, bench_state

RATE = 25e6  # bytes per second: slow enough for busy cores to keep up


@pytest.mark.slow
def test_a_ring_fills_the_links() -> None:
    (row,) = bench_shaped(4, 8 << 20, rate=RATE, runs=3)
    assert row["share"] <= 1.1, "faster than the links: they were not shaped"
    assert row["share"] >= 0.6, f"{row['share']:.0%} of what the links allow"


@pytest.mark.slow
def test_shared_state_fills_the_link_of_a_newcomer() -> None:
    (row,) = bench_state(4, 16 << 20, rate=RATE)
    assert 0.6 <= row["share"] <= 1.1, f"{row['share']:.0%} of what the link allows"
    assert row["slowed"] <= 1.5, f"the donors' steps take {row['slowed']:.2f} times as long"
