"""Layouts at random, and where each of their bytes lies, one by one."""

from __future__ import annotations

import random

from collcomm.datatypes.layout import Layout, Repeat, Run, Several


def offsets(layout: Layout) -> list[int]:
    """Where each packed byte lies, from the layout's origin."""
    if isinstance(layout, Run):
        return list(range(layout.start, layout.start + layout.size))
    if isinstance(layout, Repeat):
        body = offsets(layout.body)
        return [index * layout.stride + offset for index in range(layout.count) for offset in body]
    return [offset for part in layout.parts for offset in offsets(part)]


def random_layout(rng: random.Random, unit: int, overlapping: bool, depth: int = 4) -> Layout:
    """All of it in multiples of ``unit`` bytes. ``overlapping``: bytes may be there twice, else each is another."""
    layout: Layout = Run(unit * rng.randrange(3), unit * rng.choice((1, 1, 2, 3, 5, 8)))
    if rng.random() < 0.4:
        layout = Several(tuple(_parts(rng, unit, rng.randrange(2, 7))))
    inside = rng.sample(range(depth), rng.randint(0, depth))  # in which order the levels step over each other
    levels = [(rng.choice((2, 2, 3, 4)), place) for place in inside]
    strides: dict[int, int] = {}
    reach = layout.high - layout.low
    for count, place in sorted(levels, key=lambda level: level[1]):
        stride = reach + unit * rng.randrange(3)
        reach += (count - 1) * stride
        if overlapping and rng.random() < 0.3:
            stride = unit * rng.randrange(3)
        strides[place] = stride if rng.random() < 0.7 else -stride
    for count, place in levels:
        layout = Repeat(count, strides[place], layout)
    return layout


def _parts(rng: random.Random, unit: int, count: int) -> list[Layout]:
    """One behind the other or the other way round, often of one length."""
    parts: list[Layout] = []
    start = 0
    length = rng.randrange(1, 4)
    for _ in range(count):
        size = unit * (length if rng.random() < 0.6 else rng.randrange(1, 9))
        parts.append(Run(start, size))
        start += size + unit * rng.randrange(3)
    return parts if rng.random() < 0.5 else parts[::-1]
