"""Who probes whom, and what is made of the answers: the survey of a group's links.

Small groups measure all pairs; larger ones a sample: each pair of hosts once where that fits, then rounds of a
tournament drawn by a seed, so that nobody takes part in more than `PAIRS_PER_MEMBER` probes (PCCL, 2025, measures all pairs,
for 10 s each; C4P, 2024, and Pipette, 2024, profile once per run). What was not measured is filled in from its like
(`measured`).

Of each pair the later member acts. Both ends report both directions, each by its own clock, and the coordinator believes the
worse of the two, so that who overstates its own links gains nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from ..types import LinkRow
from .chance import SplitMix64

Pair = tuple[int, int]  # ids of two members, the lower one first

SMALL_GROUP = 16  # members; all pairs of them are measured
PAIRS_PER_MEMBER = 15  # in one survey: at some 60 ms each a newcomer is done within a second
ROUNDS_TRIED = 4 * PAIRS_PER_MEMBER  # of a large group's tournament: enough where hosts have many members
REFRESH_SECONDS = 600.0  # an older measurement is made again, one pair at a time
MOST_BANDWIDTH = 1e12  # bytes/s; no link is faster
MOST_LATENCY = 60.0  # seconds one way
MOST_STREAMS = 64


def pair(one: int, other: int) -> Pair:
    return (one, other) if one < other else (other, one)


def tournament(n: int) -> Iterator[list[tuple[int, int]]]:
    """The rounds in which ``n`` players meet, each once with each other, by the circle method: one stays, the others move
    round."""
    for number in range(rounds_of(n)):
        yield tournament_round(n, number)


def rounds_of(n: int) -> int:
    return max(0, n + n % 2 - 1)


def tournament_round(n: int, number: int) -> list[tuple[int, int]]:
    circle = n + n % 2 - 1
    met = [(number, circle)] if n % 2 == 0 else []
    for step in range(1, (circle + 1) // 2):
        met.append(((number + step) % circle, (number - step) % circle))
    return met


def survey(
    ids: Sequence[int],
    hosts: Sequence[int],
    known: Collection[Pair] = frozenset(),
    seed: int = 0,
) -> list[list[Pair]]:
    """The pairs to be measured now, in rounds, in each of which a member occurs once at most.

    ``hosts``: a number for the host of each member; pairs within a host have no link. ``known``: what has
    been measured. Who calls with the same arguments gets the same.
    """
    if len(ids) <= SMALL_GROUP:
        rounds = ([pair(ids[a], ids[b]) for a, b in met if hosts[a] != hosts[b]] for met in tournament(len(ids)))
        wanted = [[met for met in one if met not in known] for one in rounds]
        return [one for one in wanted if one]
    return _in_rounds(_sample(ids, hosts, known, seed))


def dialled_by(member: int, rounds: Iterable[Sequence[Pair]], makes: Callable[[int], bool]) -> list[int]:
    """Whom ``member`` is to probe, in the order of the rounds: those with whom its links are its to make, ``makes(other)``."""
    others = [sum(met) - member for one in rounds for met in one if member in met]
    return [other for other in others if makes(other)]


def to_refresh(member: int, ages: Mapping[Pair, float]) -> int | None:
    """Whom ``member`` is to probe again: of the pairs it acts for the one measured longest ago, once that is `REFRESH_SECONDS`.
    ``ages``: seconds since each pair that is in the group was measured."""
    due = [(-age, low) for (low, high), age in ages.items() if high == member and age > REFRESH_SECONDS]
    return min(due)[1] if due else None


def _sample(ids: Sequence[int], hosts: Sequence[int], known: Collection[Pair], seed: int) -> list[Pair]:
    """A member that has been measured on enough links is asked for more only by others that have not, see `_Load`."""
    n = len(ids)
    rank_of = {member: rank for rank, member in enumerate(ids)}
    before = [(rank_of[a], rank_of[b]) for a, b in known if a in rank_of and b in rank_of]
    before = [(a, b) for a, b in before if hosts[a] != hosts[b]]
    load = _Load(before)
    order = SplitMix64(seed).shuffled(n)
    _cover(hosts, order, load)
    for number in SplitMix64(seed + 1).shuffled(rounds_of(n))[:ROUNDS_TRIED]:
        for a, b in tournament_round(n, number):
            if hosts[a] != hosts[b]:
                load.take(a, b)
    return [pair(ids[a], ids[b]) for a, b in load.chosen]


class _Load:
    """The pairs chosen so far, by rank, and how often each rank occurs among them, and among those ``before`` it."""

    def __init__(self, before: Sequence[tuple[int, int]]):
        self.chosen: list[tuple[int, int]] = []
        self.all = {pair(a, b) for a, b in before}
        self.now: Counter[int] = Counter()
        self._ever = Counter(rank for met in before for rank in met)

    def take(self, a: int, b: int, needed: bool = False) -> None:
        """``needed``: although both ends have enough links measured."""
        met = pair(a, b)
        if met in self.all or max(self.now[a], self.now[b]) >= PAIRS_PER_MEMBER:
            return
        if not needed and min(self._ever[a], self._ever[b]) >= PAIRS_PER_MEMBER:
            return
        self.chosen.append(met)
        self.all.add(met)
        self.now.update(met)
        self._ever.update(met)


def _cover(hosts: Sequence[int], order: Sequence[int], load: _Load) -> None:
    """One pair for each two hosts that have none; nothing where there are more of these than the budget has pairs."""
    members: dict[int, list[int]] = {}
    for rank in order:
        members.setdefault(hosts[rank], []).append(rank)
    names = sorted(members)
    if len(names) * (len(names) - 1) > len(hosts) * PAIRS_PER_MEMBER:
        return
    covered = {pair(hosts[a], hosts[b]) for a, b in load.all}
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            if (one, other) not in covered:
                a = min(members[one], key=lambda rank: load.now[rank])
                b = min(members[other], key=lambda rank: load.now[rank])
                load.take(a, b, needed=True)


def _in_rounds(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Each pair in the first round in which both its ends are free."""
    rounds: list[list[Pair]] = []
    taken: Counter[int] = Counter()  # by member, a bit for each round
    for low, high in pairs:
        both = taken[low] | taken[high]
        bit = ~both & (both + 1)
        taken[low] |= bit
        taken[high] |= bit
        number = bit.bit_length() - 1
        while len(rounds) <= number:
            rounds.append([])
        rounds[number].append((low, high))
    return rounds


# -- what is made of the answers ---------------------------------------------------------------------------------------


def plausible(row: LinkRow) -> bool:
    """Whether any link can be like that."""
    return (
        row.source != row.target
        and math.isfinite(row.latency)
        and math.isfinite(row.bandwidth)
        and 0 < row.latency <= MOST_LATENCY
        and 0 < row.bandwidth <= MOST_BANDWIDTH
        and 1 <= row.streams <= MOST_STREAMS
    )
