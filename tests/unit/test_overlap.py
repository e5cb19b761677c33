"""Whether layouts share bytes, against sets of bytes."""

from __future__ import annotations

import random

from collcomm.datatypes.canonical import concatenate, repeat
from collcomm.datatypes.layout import EMPTY, Layout, Run, all_runs
from collcomm.datatypes.overlap import are_apart, has_overlap


def _layout(rng: random.Random) -> Layout:
    layout: Layout = Run(rng.randrange(-9, 9), rng.randrange(1, 4))
    for _ in range(rng.randrange(3)):
        layout = repeat(layout, rng.randrange(1, 4), rng.randrange(-12, 13))
    return concatenate([layout, _layout(rng)]) if rng.random() < 0.3 else layout


def _bytes(layout: Layout) -> list[int]:
    return [int(start) + i for start, size in zip(*all_runs(layout), strict=True) for i in range(int(size))]


def test_overlap_within_and_between() -> None:
    rng = random.Random(5)
    found = set()
    for _ in range(3000):
        one, other, third = (_layout(rng) for _ in range(3))
        listed = _bytes(one)
        assert has_overlap(one) == (len(set(listed)) < len(listed)), one
        here, there = rng.randrange(40), rng.randrange(40)
        ours = {here + byte for byte in listed} | {byte + 7 for byte in _bytes(third)}
        apart = ours.isdisjoint(there + byte for byte in _bytes(other))
        assert (
            are_apart([(here, one), (7, third)], [(there, other)])
            == apart
            == are_apart([(there, other)], [(here, one), (7, third)])
        )
        found.add((has_overlap(one), apart))
    assert len(found) == 4
    assert are_apart([], [(0, Run(0, 1))])


def test_what_is_empty_shares_nothing() -> None:
    row = (100, Run(0, 8))
    for address in (0, 100, 104, 200):
        nothing = (address, EMPTY)
        assert are_apart([nothing], [row]) and are_apart([row], [nothing, nothing]) and are_apart([nothing], [nothing])
        assert not are_apart([row, nothing], [nothing, row])
