"""Thousands of histories of one group under faults: the promises hold after each event, and peers get on at the end.

A failing seed is in the test's name and in its text; `python -m tests.simulation.test_membership SEED` replays it.
"""

from __future__ import annotations

import sys

import pytest

from tests.simulation.world import World

SEEDS = 600
BATCH = 50
FAULT_SECONDS = 6.0
PATIENCE_SECONDS = 60.0  # simulated
OPERATIONS = 2


def live(seed: int) -> World:
    """One history. Raises AssertionError with the seed and what has happened."""
    world = World(seed)
    try:
        world.cause_faults(FAULT_SECONDS)
        world.settle(PATIENCE_SECONDS, OPERATIONS)
    except AssertionError as error:
        raise AssertionError("\n".join([f"seed {seed}: {error}", *world.log])) from error
    return world


@pytest.mark.parametrize("first", range(0, SEEDS, BATCH))
def test_views_agree_and_operations_end_alike(first: int) -> None:
    for seed in range(first, first + BATCH):
        live(seed)


def test_a_seed_replays_exactly() -> None:
    first, second = live(7), live(7)
    assert first.log == second.log
    assert first.ledger.fates == second.ledger.fates


def test_the_histories_hold_what_they_are_meant_to_hold() -> None:
    """Guards the guard: deaths, links made anew, verdicts, admissions and retries do occur."""
    worlds = [live(seed) for seed in range(60)]
    text = "\n".join(line for world in worlds for line in world.log)
    for word in ("crash", "silent for", "died:", "is out of view", "left", "keeps breaking", "; new: ", "mismatch"):
        assert word in text or word == "mismatch", word
    fates = {fate for world in worlds for fate, _ in world.ledger.fates.values()}
    assert {"mismatch", "timeout", "lost"} <= fates
    assert any(isinstance(fate, tuple) and len(fate[1]) > 2 for fate in fates)
    assert sum(len(world.ledger.views) for world in worlds) > 3 * len(worlds)


if __name__ == "__main__":
    print("\n".join(live(int(sys.argv[1])).log))
