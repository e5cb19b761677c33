"""Shared state while processes are killed in the middle of its transfer: equal bits at all who survive, nothing fetched twice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.syncing import ROUND_BYTES, Group, digest, nbytes, trained

pytestmark = pytest.mark.usefixtures("each_transport")

RIGHT = digest(trained())
SIZE = nbytes(trained())
OVERHEAD = 1 << 20  # claims, hashes, headers


def nothing_twice(received: int) -> bool:
    """Chunks that an aborted round had brought already are found to be there, and not counted."""
    return SIZE - ROUND_BYTES < received <= SIZE


def _equal_at(ends: Mapping[str, tuple[str, Any]], names: set[str]) -> dict[str, Any]:
    """Reports by name, after looking at everybody's bits."""
    reports = {}
    for name in names:
        what, detail = ends[name]
        assert what == "synced", (name, ends)
        assert detail[0] == RIGHT, f"{name} has other bits"
        reports[name] = detail[1]
    return reports


@pytest.mark.parametrize("seed", range(6))
def test_a_donor_is_killed_during_the_transfer(seed: int) -> None:
    rng = random.Random(seed)
    victim, at = f"donor-{rng.randrange(3)}", rng.randint(1, 8)
    with Group() as group:
        for number in range(3):
            group.start(f"donor-{number}", 4, has_state=True)
        group.start("newcomer", 4, has_state=False)
        ends = group.run({("newcomer", at): victim}, seed)
    left = {f"donor-{number}" for number in range(3)} - {victim}
    reports = _equal_at(ends, left | {"newcomer"})
    mine = reports["newcomer"]
    assert mine.turns >= 3, "the donor died when all was over"
    assert mine.changed and nothing_twice(mine.bytes_received), "something was fetched twice"
    assert ends["newcomer"][1][2] <= SIZE + ROUND_BYTES + OVERHEAD, "more than the round in flight came again"
    assert mine.laggards == {"newcomer"} and not mine.outvoted
    assert not any(reports[name].changed for name in left)


def test_all_donors_but_one_are_killed_one_after_the_other() -> None:
    with Group() as group:
        for number in range(3):
            group.start(f"donor-{number}", 4, has_state=True)
        group.start("newcomer", 4, has_state=False)
        ends = group.run({("newcomer", 2): "donor-0", ("newcomer", 6): "donor-1"})
    reports = _equal_at(ends, {"donor-2", "newcomer"})
    assert nothing_twice(reports["newcomer"].bytes_received)
    assert ends["newcomer"][1][2] <= SIZE + 2 * ROUND_BYTES + OVERHEAD


def test_all_donors_are_killed() -> None:
    """Nobody has the state any more: the newcomer is told so, and does not take its half for whole."""
    with Group() as group:
        for number in range(2):
            group.start(f"donor-{number}", 3, has_state=True)
        group.start("newcomer", 3, has_state=False)
        ends = group.run({("newcomer", 3): "donor-0", ("newcomer", 4): "donor-1"})
    what, text = ends["newcomer"]
    assert what == "refused" and "StateDiverged" in text and "those who had it are gone" in text


@pytest.mark.parametrize("seed", range(3))
def test_a_newcomer_is_killed_during_the_transfer(seed: int) -> None:
    """Of two newcomers that are served at once; the other goes on where it was."""
    at = random.Random(seed).randint(1, 8)
    with Group() as group:
        for number in range(3):
            group.start(f"donor-{number}", 5, has_state=True)
        for number in range(2):
            group.start(f"newcomer-{number}", 5, has_state=False)
        ends = group.run({("newcomer-0", at): "newcomer-0"}, seed)
    reports = _equal_at(ends, {"donor-0", "donor-1", "donor-2", "newcomer-1"})
    assert nothing_twice(reports["newcomer-1"].bytes_received)
    assert ends["newcomer-1"][1][2] <= SIZE + ROUND_BYTES + OVERHEAD
    assert len(reports["newcomer-1"].donors) == 3


def test_the_only_newcomer_is_killed() -> None:
    with Group() as group:
        for number in range(3):
            group.start(f"donor-{number}", 4, has_state=True)
        group.start("newcomer", 4, has_state=False)
        ends = group.run({("newcomer", 4): "newcomer"})
    reports = _equal_at(ends, {"donor-0", "donor-1", "donor-2"})
    assert not any(report.changed for report in reports.values())


@pytest.mark.parametrize("seed", range(3))
def test_a_sync_that_raised_is_called_again(seed: int) -> None:
    """With on_failure="raise" all survivors hear of a death that hit a round, or none does because it fell between two;
    what had come by then is not fetched again."""
    with Group() as group:
        for number in range(3):
            group.start(f"donor-{number}", 4, has_state=True, on_failure="raise")
        group.start("newcomer", 4, has_state=False, on_failure="raise")
        ends = group.run({("newcomer", 6): "donor-1"}, seed)
    reports = _equal_at(ends, {"donor-0", "donor-2", "newcomer"})
    assert group.lost in (set(), set(reports))
    received = reports["newcomer"].bytes_received
    assert (
        received <= SIZE - 4 * ROUND_BYTES if group.lost else nothing_twice(received)
    )  # five rounds, the first is not full
    assert ends["newcomer"][1][2] <= SIZE + 2 * ROUND_BYTES + OVERHEAD
