"""Training under fire: members die and newcomers are served in the background, and every revision has the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.training import Training


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_every_revision_is_the_same_everywhere(seed: int, tmp_path: Path) -> None:
    training = Training(seed, tmp_path / "stop")
    training.run(kills=20, seconds=100)
    assert training.late >= 10 and len(training.bits) > 10


@pytest.mark.campaign
@pytest.mark.timeout(1900)
def test_the_same_for_long(tmp_path: Path) -> None:
    Training(99, tmp_path / "stop").run(kills=300, seconds=1800)
