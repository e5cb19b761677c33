"""Groups in which nobody is sick: nothing is found, whatever healthy members do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.ailing import World, diagnose, phase_of

SEEDS = range(6)
PATTERNS = ("ring", "direct", "all_to_all")

HEALTHY: dict[str, Callable[[int, str], World]] = {
    "jitter with heavy tails": lambda seed, pattern: World(
        seed, [phase_of(pattern, nbytes=2 << 20, compute=0.04)], tails=0.1
    ),
    "uneven work": lambda seed, pattern: World(
        seed, [phase_of(pattern, nbytes=2 << 20, compute=0.03, work={2: 1.8, 5: 2.5})], tails=0.05
    ),
    "a join": lambda seed, pattern: World(
        seed, [phase_of(pattern, ids=tuple(range(7))), phase_of(pattern, at=35.0, epoch=2)], tails=0.05
    ),
    "a leave, and its work for another": lambda seed, pattern: World(
        seed,
        [phase_of(pattern), phase_of(pattern, at=35.0, epoch=2, ids=(0, 1, 2, 4, 5, 6, 7), work={6: 1.7})],
        tails=0.05,
    ),
    "another way for the traffic": lambda seed, pattern: World(
        seed, [phase_of("ring"), phase_of("direct", at=30.0), phase_of(pattern, at=50.0)], tails=0.05
    ),
    "changes of size": lambda seed, pattern: World(
        seed,
        [
            phase_of(pattern),
            phase_of(pattern, at=20.0, nbytes=1 << 20, compute=0.03),
            phase_of(pattern, at=45.0, nbytes=32 << 20, compute=0.2, work={4: 1.5}),
        ],
        tails=0.05,
    ),
    "a slow beginning": lambda seed, pattern: World(
        seed, [phase_of(pattern, compute=2.0, work={1: 1.4}), phase_of(pattern, at=9.0)], tails=0.05
    ),
    "small operations": lambda seed, pattern: World(seed, [phase_of(pattern, nbytes=1 << 10, compute=0.05)], tails=0.1),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found(name: str) -> None:
    for seed in SEEDS:
        world = HEALTHY[name](seed, PATTERNS[seed % 3])
        outcome = diagnose(world, 75.0, live=bool(seed % 2))
        assert outcome.found == [] and outcome.ended == [], (seed, outcome.found)
        assert sum(run.commit < 75.0 for run in world.runs) > 150


@pytest.mark.parametrize("pattern", PATTERNS)
def test_nothing_is_found_in_a_thousand_operations(pattern: str) -> None:
    world = World(1, [phase_of(pattern, nbytes=2 << 20, compute=0.04)], tails=0.05)
    outcome = diagnose(world, 130.0)
    assert sum(run.commit < 130.0 for run in world.runs) >= 1000
    assert outcome.found == [] and outcome.diagnosis.wanted == []
