"""Which ranks share a host, and who of them carries a piece over the network."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import lcm

MOST_SHARES = 64  # pieces per host; with more, the ranks of a host carry unequal shares


@dataclass(frozen=True)
class Hosts:
    """``numbers``: of each rank's host, in any order; empty for ``n`` ranks on hosts of their own."""

    numbers: tuple[int, ...]

    @classmethod
    def of(cls, n: int, numbers: tuple[int, ...]) -> Hosts:
        return cls(numbers or tuple(range(n)))

    @cached_property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The ranks of each host; hosts in the order of their first rank."""
        found: dict[int, list[int]] = {}
        for rank, number in enumerate(self.numbers):
            found.setdefault(number, []).append(rank)
        return tuple(tuple(ranks) for ranks in found.values())

    @cached_property
    def place(self) -> tuple[tuple[int, int], ...]:
        """(host, position there) of each rank."""
        places = {rank: (host, at) for host, ranks in enumerate(self.members) for at, rank in enumerate(ranks)}
        return tuple(places[rank] for rank in range(len(self.numbers)))

    @property
    def count(self) -> int:
        return len(self.members)

    @cached_property
    def shares(self) -> int:
        """Into how many pieces data is cut so that all ranks of each host carry equally many, if that is not too many."""
        sizes = [len(ranks) for ranks in self.members]
        shares = lcm(*sizes)
        return shares if shares <= MOST_SHARES else 2 * max(sizes)

    def carrier(self, host: int, piece: int) -> int:
        """The rank that has to do with ``piece`` on ``host``."""
        ranks = self.members[host % self.count]
        return ranks[piece % len(ranks)]

    def neighbours(self, rank: int) -> list[int]:
        """The other ranks of its host, beginning behind it."""
        host, at = self.place[rank]
        ranks = self.members[host]
        return [*ranks[at + 1 :], *ranks[:at]]

    @cached_property
    def widest_cut(self) -> int:
        """Links of a ring in the order of ranks that leave the same host."""
        n = len(self.numbers)
        leaving = [self.place[r][0] for r in range(n) if self.place[r][0] != self.place[(r + 1) % n][0]]
        return max((leaving.count(host) for host in set(leaving)), default=0)
