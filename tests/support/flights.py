"""Dumps of a group whose members have run operations that are made up: what is in them is known to the microsecond."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from collcomm.health.dump import Dump, Header, Peer
from collcomm.health.observation import OpenOperation
from collcomm.health.records import OperationRecord, TransferRecord

WALL = 1.7e9  # of everybody's first operation
TOOK = 0.02  # seconds of an operation, from the last call on
COMPUTES = 0.08


@dataclass
class Flight:
    """``n`` members run ``count`` operations in a ring. ``boots``: what a member's monotonic clock showed at `WALL`; ``skew``:
    how far its wall clock is ahead; ``late``: by how much it comes later to every operation; ``slow``: how many times as long the
    bytes to its neighbour take; ``drift``: of its monotonic clock; ``jitter``: seconds by which members come earlier by
    chance, at most."""

    n: int = 4
    count: int = 50
    nbytes: int = 1 << 20
    kind: str = "all_reduce"
    period: float = COMPUTES + TOOK
    boots: dict[int, float] = field(default_factory=dict)
    skew: dict[int, float] = field(default_factory=dict)
    late: dict[int, float] = field(default_factory=dict)
    slow: dict[int, float] = field(default_factory=dict)
    drift: dict[int, float] = field(default_factory=dict)
    opens: dict[int, OpenOperation] = field(default_factory=dict)
    jitter: float = 0.0
    after: float = 0.0  # seconds from the end of the last operation to the dumps

    @property
    def ids(self) -> range:
        return range(1, self.n + 1)

    def monotonic(self, member: int, wall: float) -> float:
        return self.boots.get(member, 1000.0 * member) + (wall - WALL) * (1.0 - self.drift.get(member, 0.0))

    def dumps(self) -> list[Dump]:
        return [self.dump(member) for member in self.ids]

    def dump(self, member: int, count: int | None = None) -> Dump:
        count = self.count if count is None else count
        made = WALL + self.period * count + self.after
        open_ = self.opens.get(member)
        header = Header(
            "run-7",
            member,
            f"lab-{member}",
            member - 1,
            3,
            tuple(Peer(one, f"lab-{one}", f"host-{one}") for one in self.ids),
            entered={0: max(count - 1, 0 if open_ is None else open_.seq)},
            open=() if open_ is None else (open_,),
        )
        return Dump(
            header,
            self.monotonic(member, made),
            made + self.skew.get(member, 0.0),
            "request",
            "0.1.0",
            "3.11.7",
            f"host-{member}",
            4000 + member,
            [self.operation(member, seq) for seq in range(count)],
            [one for seq in range(count) for one in self.transfers(member, seq)],
        )

    def operation(self, member: int, seq: int) -> OperationRecord:
        begin = WALL + seq * self.period
        chance = self.jitter * random.Random(member * 1_000_003 + seq).random() if self.jitter else 0.0
        enter = begin + COMPUTES / 2 + self.late.get(member, 0.0) - chance
        last = begin + COMPUTES / 2 + max(self.late.values(), default=0.0) + TOOK * 0.8
        commit = begin + COMPUTES / 2 + max(self.late.values(), default=0.0) + TOOK
        times = [enter, enter + 0.001, last, commit, commit + 1e-5]
        moments = [self.monotonic(member, wall) for wall in times]
        return OperationRecord(0, 3, seq, self.kind, self.nbytes, "ring", *moments, 0.0, "")

    def transfers(self, member: int, seq: int) -> list[TransferRecord]:
        """To the next member of the ring, and from the one before."""
        after, before = member % self.n + 1, (member - 2) % self.n + 1
        found = []
        for other, incoming, sender in ((after, False, member), (before, True, before)):
            ready = WALL + seq * self.period + COMPUTES / 2 + max(self.late.values(), default=0.0)
            done = ready + 0.001 + TOOK * 0.1 * self.slow.get(sender, 1.0)
            moments = [self.monotonic(member, wall) for wall in (ready, ready + 0.001, done)]
            found.append(TransferRecord(0, 3, seq, other, 0, incoming, *moments, self.nbytes))
        return found
