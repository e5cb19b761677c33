"""Peers are killed and stopped at random points of random collectives; every result is checked against numpy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.churn import Churn


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_hundred_deaths_in_a_row(tmp_path: Path) -> None:
    churn = Churn(seed=1, stop=tmp_path / "stop")
    churn.run(events=200, deadline=380)
    assert sum(event.startswith("SIGSTOP") for event in churn.events) >= 10


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(2, 12))
def test_long_churn(tmp_path: Path, seed: int) -> None:
    Churn(seed=seed, stop=tmp_path / "stop", most=7, stopped_share=0.05).run(events=500, deadline=1800)
