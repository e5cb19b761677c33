"""Plans for simulated groups: any that members can run, drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from ..collectives import BY_MESSAGES, KINDS
from ..membership.messages import Message
from ..types import LinkRow


def any_plan(random: Random, members: Sequence[int]) -> Message:
    """Any order, any sites, any algorithm for any kind and size; sometimes with members who are not there."""
    order = random.sample(list(members), len(members))
    if random.random() < 0.2:
        order.insert(random.randrange(len(order) + 1), 10**6)
    choices = []
    for kind in random.sample(KINDS, random.randint(0, len(KINDS))):
        algorithms = sorted(algorithm for of, algorithm in BY_MESSAGES if of == kind)
        for nbytes in (0, random.randint(1, 1 << 20)):
            choices.append([kind, nbytes, random.choice(algorithms), random.randint(0, 3), 1000])
    return {
        "revision": 0,
        "order": order,
        "sites": [random.randrange(3) for _ in order],
        "hub": random.choice(order),
        "within": [100_000, 10**8, 1],
        "across": [10_000_000, 10**7, 1],
        "choices": choices,
    }


def any_rows(random: Random, member: int, members: Sequence[int]) -> list[LinkRow]:
    """What a peer might have measured of one of its links."""
    other = random.choice(members)
    pair = random.choice([(member, other), (other, member)])
    return [LinkRow(*pair, random.uniform(0, 0.1), random.uniform(1, 1e9), random.randint(1, 8))]
